"""The server that a stage asks: the user's, a vLLM server or a stand-in that the stage starts, and ends with everything it started.

with model_server.running(config.model) as server:
    ...
"""

import contextlib
import functools
import importlib.util
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from megatron_octo import process, server_client
from megatron_octo.curation.config import LanguageModel
from megatron_octo.curation.language_model import stand_in
from megatron_octo.errors import ConfigError, ResourceError
from megatron_octo.servers import Server

#: Requests under way to a server that we start. vLLM's own default for what it runs together is between 256 and 1,024, by GPU.
VLLM_CONCURRENCY = 256
STAND_IN_CONCURRENCY = 32
#: A 70B model from a slow disk, and its compilation (guess).
START_SECONDS = 3600.0
POLL_SECONDS = 0.1
#: Between two lines about a server that is not up yet.
SAY_SECONDS = 30.0
#: For vLLM to end its own processes.
GRACE_SECONDS = 20.0
#: Of a server's log, in an error.
LOG_LINES = 20


@contextlib.contextmanager
def running(model: LanguageModel) -> Iterator[Server]:
    """A server that has the model and answers now.

    Raises:
        ConfigError: the user's server has no such model, or vLLM does not start with these options.
        ResourceError: the user's server does not answer; vLLM is not installed.
    """
    if model.server is not None:
        server_client.require_model(model.server)
        yield model.server
    elif model.vllm is not None:
        with _vllm(model.vllm, model.gpus, shlex.split(model.vllm_options)) as server:
            yield server
    else:
        print("*** NO LANGUAGE MODEL IS ASKED: a stand-in answers by rule, for trials ***", file=sys.stderr, flush=True)
        with _stand_in() as server:
            yield server


@contextlib.contextmanager
def _vllm(model: str, gpus: int, options: Sequence[str]) -> Iterator[Server]:
    if importlib.util.find_spec("vllm") is None:
        raise ResourceError(
            f"vllm={model} needs vLLM in this environment: pip install vllm; or start a server elsewhere and give its address"
        )
    port = _free_port()
    server = Server(url=f"http://127.0.0.1:{port}/v1", model=model, concurrency=VLLM_CONCURRENCY)
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port),
        "--model", model, "--served-model-name", model, "--tensor-parallel-size", str(gpus), *options,
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="vllm-") as folder, _child(command, Path(folder) / "log") as child:
        print(f"starting vLLM with {model}; it says what it does in {folder}/log", file=sys.stderr, flush=True)
        _wait_until_up(child, server, Path(folder) / "log")
        yield server


@contextlib.contextmanager
def _stand_in() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="stand-in-") as folder:
        log, address = Path(folder) / "log", Path(folder) / "url"
        command = [
            sys.executable,
            "-m",
            stand_in.__name__,
            "--port",
            "0",
            "--url-file",
            str(address),
        ]
        with _child(command, log) as child:
            while not address.exists():
                _require_alive(child, log)
                time.sleep(POLL_SECONDS)
            yield Server(url=address.read_text(), model=stand_in.MODEL, concurrency=STAND_IN_CONCURRENCY)


@contextlib.contextmanager
def _child(command: Sequence[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process group that ends with the block, and with this process however that ends."""
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=functools.partial(process.die_with_parent, os.getpid()),
        )
    try:
        yield child
    finally:
        process.end(child, grace_seconds=GRACE_SECONDS)


def _wait_until_up(child: "subprocess.Popen[bytes]", server: Server, log: Path) -> None:
    """Raises `ConfigError` where the server ends instead, with what it said last, `ResourceError` where it takes too long."""
    started = said = time.monotonic()
    while True:
        _require_alive(child, log)
        try:
            server_client.require_model(server)
        except ResourceError:
            now = time.monotonic()
            if now - started > START_SECONDS:
                raise
            if now - said > SAY_SECONDS:
                said = now
                last = "".join(process.last_lines(log, 1))
                print(f"waiting for the server since {now - started:.0f} s: {last}", file=sys.stderr, flush=True)
            time.sleep(POLL_SECONDS)
        else:
            return


def _require_alive(child: "subprocess.Popen[bytes]", log: Path) -> None:
    if child.poll() is not None:
        said = "\n".join(process.last_lines(log, LOG_LINES))
        raise ConfigError(
            f"the server ended with exit code {child.returncode} before it answered; it said last:\n{said}"
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
