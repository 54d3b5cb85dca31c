"""A Ray cluster of one machine with logical GPUs."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

HERE = Path(__file__).parent
ENVIRONMENT = {
    "PYTHONPATH": f"{HERE / 'stand_ins'}{os.pathsep}{HERE.parents[1]}",
    "DS_ACCELERATOR": "cpu",
    "CUDA_VISIBLE_DEVICES": "0,1,2",  # Ray wants as many names as logical GPUs
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # ninja, for DeepSpeed's optimizer
}


def environment() -> dict[str, str]:
    """Of every process: Ray's, the driver's."""
    return os.environ | ENVIRONMENT


@contextlib.contextmanager
def ray_cluster(directory: Path) -> Iterator[dict[str, str]]:
    """Gives the environment of a driver; ends exactly the processes it started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    words = [
        str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1",
        f"--port={address.rpartition(':')[2]}", "--num-cpus=8", "--num-gpus=3", "--include-dashboard=false",
        f"--temp-dir={directory}", "--object-store-memory=300000000",
    ]  # fmt: skip
    head = subprocess.Popen(words, env=environment(), start_new_session=True)
    try:
        _wait(address)
        yield environment() | {"RAY_ADDRESS": address}
    finally:
        _end(head)


def _wait(address: str, seconds: float = 60) -> None:
    host, _, port = address.rpartition(":")
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, int(port)), 1).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
        else:
            return


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ray's workers are in process groups of their own, so their tree is listed before its root goes."""
    tree = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs([*tree, psutil.Process(process.pid)], timeout=15)
    for each in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
