"""What processes hold of their own while they run: anonymous and shared memory, not the page cache that they map."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from measure import timed

EVERY_SECONDS = 0.02


@dataclass(frozen=True)
class Process:
    """A whole command: seconds, and peaks of its processes together, in bytes."""

    wall: float
    cpu: float
    #: Anonymous and shared memory, the largest of the samples.
    own_bytes: int
    #: Mapped files included, as the kernel counts it (`VmHWM`, which `ru_maxrss` reports).
    resident_bytes: int


@dataclass
class _Peak:
    own: int = 0
    resident: int = 0


def watched(command: Sequence[str], log: Path) -> Process:
    """Run `command` and look at its processes every 20 ms. Raises `measure.CommandError` when it fails."""
    with _sampled() as peak:
        seconds = timed([command], log)
    return Process(wall=seconds.wall, cpu=seconds.cpu, own_bytes=peak.own, resident_bytes=peak.resident)


@contextlib.contextmanager
def _sampled() -> Iterator[_Peak]:
    """The peak of all processes that this one has below it."""
    peak, done = _Peak(), threading.Event()

    def look() -> None:
        while not done.wait(EVERY_SECONDS):
            statuses = [_status(pid) for pid in _descendants("self")]
            peak.own = max(peak.own, sum(found.get("RssAnon", 0) + found.get("RssShmem", 0) for found in statuses))
            peak.resident = max([peak.resident, *(found.get("VmHWM", 0) for found in statuses)])

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def _descendants(pid: str) -> Iterator[str]:
    """Processes below `pid`, without one that still is its parent's fork: it would show the parent's memory."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            for child in task.read_text().split():
                if _command(child) != _command(pid):
                    yield child
                yield from _descendants(child)


def _command(pid: str) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _status(pid: str) -> dict[str, int]:
    """Bytes by name; nothing for a process that ended."""
    with contextlib.suppress(OSError):
        lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return {name.rstrip(":"): int(number) * 1024 for name, number, unit in (x for x in lines if x[2:] == ["kB"])}
    return {}
