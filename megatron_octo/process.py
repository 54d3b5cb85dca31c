"""A stage as a process: `python -m megatron_octo.<room>.run CONFIG.json OUT [--force]`.

The same entry runs under the local study, under torchrun and inside a Slurm job. Exit codes: 0 done (or, for a training run told to
stop, saved: its state file says which), 2 something the user can mend (one message on stderr), 75 a rank hung and a restart
continues, 130 interrupted, 1 a defect of ours (with its traceback).
"""

import argparse
import contextlib
import ctypes
import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from megatron_octo.config import load
from megatron_octo.errors import OctoError

ConfigT = TypeVar("ConfigT")

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
#: EX_TEMPFAIL of sysexits.h, "the user is invited to retry": what a restart can mend.
EXIT_HUNG = 75
#: What the file system refuses and the user can mend: missing, in the way, forbidden, full.
USERS_ERRNO = (
    errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT
)  # fmt: skip
#: Read at first from the end of a log; twice as much while that holds too few lines.
TAIL_BYTES = 1 << 16


def main(
    run: Callable[[ConfigT, Path, bool], None], config_type: type[ConfigT], *, argv: Sequence[str] | None = None
) -> int:
    """Parse the three arguments, run the stage, turn its end into an exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m {run.__module__}", description=f"Run one {config_type.__name__}.")
    parser.add_argument("config", type=Path, help="resolved config, JSON")
    parser.add_argument("out", type=Path, help="stage directory to make or to continue")
    parser.add_argument("--force", action="store_true", help="redo a stage whose config or inputs changed")
    arguments = parser.parse_args(argv)
    return exit_code(lambda: run(load(config_type, arguments.config), arguments.out, arguments.force))


def exit_code(work: Callable[[], int | None]) -> int:
    """Do the work of a command; how it ended as an exit code, said in one message where the user can mend it."""
    signal.signal(signal.SIGTERM, interrupt)
    try:
        return work() or 0
    except (OctoError, OSError, KeyboardInterrupt) as error:
        return explain(error)


def explain(error: OctoError | OSError | KeyboardInterrupt) -> int:
    """Say what ended the process, in one message; returns the exit code. Raises the error again when it is ours to mend."""
    if isinstance(error, KeyboardInterrupt):
        print("interrupted; run the same command again to continue", file=sys.stderr, flush=True)
        return EXIT_INTERRUPTED
    if isinstance(error, OSError):
        if error.errno not in USERS_ERRNO:
            raise error
        where = f": {error.filename}" if error.filename is not None else ""
        print(f"error: {error.strerror}{where}", file=sys.stderr, flush=True)
    else:
        print(f"error: {error}", file=sys.stderr, flush=True)
    return EXIT_USER_ERROR


def interrupt(*_: object) -> None:
    """SIGTERM ends a stage as Ctrl-C does, so that helper processes of libraries are cleaned up."""
    raise KeyboardInterrupt


def die_with_parent(parent: int) -> None:
    """On Linux a killed parent takes this process along: none goes on writing into a directory that is started again."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
        if os.getppid() != parent:  # it was gone before the line above
            os.kill(os.getpid(), signal.SIGTERM)


def end(child: "subprocess.Popen[Any]", *, grace_seconds: float) -> None:
    """End a child that leads a process group, and what it started there: SIGTERM, then SIGKILL to whoever is left.

    Returns when the child is gone. An interrupt cuts the grace short, so that it leaves nobody behind.
    """
    signal_group(child, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        child.wait(grace_seconds)
    signal_group(child, signal.SIGKILL)
    child.wait()


def signal_group(child: "subprocess.Popen[Any]", number: signal.Signals) -> None:
    """Send a signal to the process group that a child leads; nothing where it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def last_lines(file: Path, count: int) -> list[str]:
    """The last `count` (at least 1) lines of a text file of any size; none where it is missing."""
    if not file.exists():
        return []
    with file.open("rb") as text:
        size, num_bytes = text.seek(0, os.SEEK_END), TAIL_BYTES
        while True:
            text.seek(max(0, size - num_bytes))
            tail = text.read()
            # More lines than asked for: the first may be cut.
            if num_bytes >= size or len(tail.splitlines()) > count:
                return tail.decode(errors="replace").splitlines()[-count:]
            num_bytes *= 2


def allow_open_files() -> None:
    """Raise this process's limit of open files to what the system allows: a run keeps every shard open, and 1,024 are not many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def world_size() -> int:
    """Ranks of this run; a process outside torchrun is alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_rank_zero() -> bool:
    """Rank 0 speaks; a process outside torchrun is rank 0."""
    return int(os.environ.get("RANK", "0")) == 0
