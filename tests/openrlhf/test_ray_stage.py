"""One real Ray cluster for one step: the command finds it, its exit code comes back, and nothing is left."""

import subprocess
import sys
import tempfile
from pathlib import Path

import cluster
import psutil

COMMAND = "import ray, sys; ray.init(log_to_driver=False); print('GPUS', ray.cluster_resources()['GPU']); sys.exit(3)"


def test_the_exit_code_is_the_commands_and_ray_is_gone() -> None:
    with tempfile.TemporaryDirectory(prefix="ray") as directory:
        words = [
            sys.executable, "-m", "megatron_octo.rl.ray_stage", "--logs", f"{directory}/logs",
            "--ray", f"--num-gpus=3 --temp-dir={directory}/ray", "--", sys.executable, "-c", COMMAND,
        ]  # fmt: skip
        done = subprocess.run(
            words, env=cluster.environment(), stdout=subprocess.PIPE, text=True, timeout=120, check=False
        )
        left = [process for process in psutil.process_iter(["cmdline"]) if directory in str(process.info["cmdline"])]
        assert Path(f"{directory}/logs/ray-0000.log").exists()
    assert (done.returncode, "GPUS 3.0" in done.stdout, left) == (3, True, [])
