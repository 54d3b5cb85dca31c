"""Runs training ranks as forks of one process that imported Megatron once: a rank starts in milliseconds instead of seconds.

The rank runs `megatron_octo.training.phase.run` with the environment torchrun would give it, as the process entry does. Used as
a client from tests (`Ranks`), started as a server (`python ranks.py`) that answers one JSON line for each it reads.
"""

import contextlib
import functools
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

#: Longer than any test's run takes on a busy machine.
TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class Ended:
    """How the ranks of one run ended."""

    #: Exit code per rank; negative for a signal.
    codes: tuple[int, ...]
    #: What each rank wrote on stdout and stderr.
    said: tuple[str, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        return not any(self.codes)


class Ranks:
    """The client: one server process for a whole test module."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.runs = 0
        self.server = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve())],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(
        self,
        job: Any,
        *,
        prelude: str | None = None,
        argument: Any = None,
        kill_after: float | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> Ended:
        """Run a `Job` (its config, `out` and `ranks`).

        Args:
            prelude: `module:function` called in every rank with `argument` before the run.
            kill_after: seconds until every process of the run gets SIGKILL.
        """
        from megatron_octo.launch.jobs import write_config

        self.runs += 1
        logs = self.scratch / f"run{self.runs}"
        logs.mkdir(parents=True)
        write_config(replace(job, logs=logs))
        request = {
            "config": str(logs / "config.json"), "out": str(job.out), "ranks": job.ranks, "logs": str(logs), "prelude": prelude,
            "argument": argument, "kill_after": kill_after, "timeout": timeout,
        }  # fmt: skip
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        answer = json.loads(self.server.stdout.readline())
        said = tuple((logs / f"rank{rank}.log").read_text(errors="replace") for rank in range(job.ranks))
        return Ended(codes=tuple(answer["codes"]), said=said, seconds=answer["seconds"])

    def must(self, job: Any, **options: Any) -> Ended:
        """Run a job that must end well."""
        ended = self.run(job, **options)
        assert ended.ok, f"{job.name}: exit codes {ended.codes}\n" + "\n".join(ended.said)
        return ended

    def close(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait(timeout=10)


def serve() -> None:
    for module in ("megatron_octo.training.phase", "megatron.core.dist_checkpointing.strategies.filesystem_async"):
        importlib.import_module(module)  # before the forks, once
    for line in sys.stdin:
        request = json.loads(line)
        started = time.monotonic()
        port = _free_port()
        children = [_fork(rank, port, request) for rank in range(request["ranks"])]
        codes = _wait(children, request)
        print(json.dumps({"codes": codes, "seconds": time.monotonic() - started}), flush=True)


def _wait(children: list[int], request: dict[str, Any]) -> list[int]:
    """Exit codes; at the deadline, or once a rank ended badly and the others had a moment to follow, the rest is killed."""
    started = time.monotonic()
    deadline = started + (request["kill_after"] if request["kill_after"] is not None else request["timeout"])
    codes: dict[int, int] = {}
    while len(codes) < len(children) and time.monotonic() < deadline:
        for child in children:
            if child not in codes:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    codes[child] = os.waitstatus_to_exitcode(status)
                    if codes[child]:
                        deadline = min(deadline, time.monotonic() + 15.0)
        time.sleep(0.005)
    for child in children:  # what a rank started itself goes with it
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        if child not in codes:
            codes[child] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return [codes[child] for child in children]


def _fork(rank: int, port: int, request: dict[str, Any]) -> int:
    child = os.fork()
    if child:
        with contextlib.suppress(OSError):
            os.setpgid(child, child)
        return child
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    log = os.open(Path(request["logs"]) / f"rank{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(request["ranks"]), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    code = 1
    try:
        code = _rank(request)
    except BaseException:  # noqa: BLE001  whatever it is, the test reads it in the log
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _rank(request: dict[str, Any]) -> int:
    from megatron_octo import config, process
    from megatron_octo.training import phase
    from megatron_octo.training.config import TrainingJob

    if request["prelude"]:
        module, _, name = request["prelude"].partition(":")
        getattr(importlib.import_module(module), name)(request["argument"])
    job = config.load(TrainingJob, Path(request["config"]))
    return process.exit_code(functools.partial(phase.run, job, Path(request["out"]), False))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    serve()
    os._exit(0)  # taking Megatron's modules down in order takes seconds
