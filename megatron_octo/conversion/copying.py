"""Makes the files of a plan: in blocks, each read from where its bytes lie, hashed, and written past the page cache.

A file is finished when its mark NAME.done lies beside it, written after the bytes are on the disk. A second run, or another
machine, skips the finished ones; a half-written file is written again from its beginning. Memory is bounded by a few blocks for
each worker, whatever the size of the model.

Blocks are written with O_DIRECT: with the page cache between, a copy costs twice the CPU time and waits for the disk at its end
(docs/measurements.md#conversion).
"""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import mmap
import os
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from megatron_octo import artifacts, progress
from megatron_octo.conversion.plan import OutputFile
from megatron_octo.conversion.sources import BLOCK_BYTES, Bytes, Sources, fill
from megatron_octo.errors import ArtifactError, listed

#: Files that are made at once: each is hashed by one thread, at 1.7 GB/s, and storage can be faster.
FILES_AT_ONCE = 2
#: What O_DIRECT asks of offsets, lengths and addresses; 512 would do for most disks.
ALIGNMENT = 4096


@dataclass(frozen=True)
class Mark:
    """What is known of a finished file."""

    #: Of the plan it was made by.
    digest: str
    bytes: int
    sha256: str


def finished(file: OutputFile, directory: Path) -> Mark | None:
    """The mark of a file that is there, complete, and made by this plan."""
    try:
        found = Mark(**json.loads(mark(file, directory).read_text()))
        there = (directory / file.name).stat().st_size
    except (OSError, ValueError, TypeError):
        return None
    return found if (found.digest, found.bytes) == (file.digest, there) else None


def missing_bytes(file: OutputFile, directory: Path) -> int:
    """Disk that a file still takes: all of it, or what a killed run has not written."""
    if finished(file, directory) is not None:
        return 0
    try:
        return max(0, file.size - (directory / file.name).stat().st_blocks * 512)
    except (FileNotFoundError, NotADirectoryError):
        return file.size


def make(files: Sequence[OutputFile], directory: Path, *, workers: int, advance: progress.Advance) -> None:
    """Make the files, each complete on the disk before its mark.

    Raises:
        ArtifactError: a source file is missing or ends early.
        ConfigError: a number does not fit the number format.
        OSError: the disk is full.
    """
    with (
        Sources() as sources,
        ThreadPoolExecutor(workers, "copy") as copiers,
        ThreadPoolExecutor(FILES_AT_ONCE, "file") as makers,
    ):
        maker = _Maker(directory, sources, copiers, window=workers + 1, advance=advance)
        try:
            making = [makers.submit(maker.make, file) for file in files]
            for made in wait(making, return_when=FIRST_EXCEPTION).done:
                made.result()
        except BaseException:
            maker.stopped = True
            makers.shutdown(cancel_futures=True)
            raise


def require_same_sources(files: Sequence[OutputFile]) -> None:
    """Raises `ArtifactError` where a source file is not the one that the plan was made of."""
    changed = [name for file in files for name in file.changed_sources()]
    if changed:
        raise ArtifactError(f"the source changed while it was converted: {listed(changed)}; run it again when it rests")


class _Maker:
    """Makes files with common workers."""

    def __init__(
        self, directory: Path, sources: Sources, copiers: ThreadPoolExecutor, *, window: int, advance: progress.Advance
    ) -> None:
        self._directory = directory
        self._sources = sources
        self._copiers = copiers
        #: Blocks of a file in memory.
        self._window = window
        self._advance = advance
        self._advancing = threading.Lock()
        #: Set where another file failed or somebody interrupts: no more blocks are begun.
        self.stopped = False

    def make(self, file: OutputFile) -> None:
        with _Target(self._directory / file.name, file.size) as target:
            # While it waited for the file, another task that was given the same share may have made it.
            if finished(file, self._directory) is not None:
                self._advance_by(file.size)
                return
            # A mark of the file as it was would vouch for what is written now.
            mark(file, self._directory).unlink(missing_ok=True)
            artifacts.sync_directory(self._directory)
            sha256 = self._copy(file, target)
            target.complete()
            require_same_sources([file])
            made = Mark(digest=file.digest, bytes=file.size, sha256=sha256)
            artifacts.write_json(mark(file, self._directory), asdict(made))

    def _copy(self, file: OutputFile, target: "_Target") -> str:
        """sha256 of the file: blocks are hashed in their order while others are read and written."""
        found = hashlib.sha256()
        free = deque(_aligned(BLOCK_BYTES) for _ in range(self._window))
        flying: deque[tuple[Bytes, int, Future[None]]] = deque()
        starts = iter(range(0, file.size, BLOCK_BYTES))
        try:
            while not self.stopped:
                for start in itertools.islice(starts, len(free)):
                    buffer, size = free.popleft(), min(BLOCK_BYTES, file.size - start)
                    flying.append(
                        (buffer, size, self._copiers.submit(self._copy_block, file, target, buffer, start, size))
                    )
                if not flying:
                    return found.hexdigest()
                buffer, size, copied = flying.popleft()
                copied.result()
                found.update(buffer.data[:size])
                free.append(buffer)
                self._advance_by(size)
        finally:
            # Nobody may write to a file that is closed.
            wait([copied for _, _, copied in flying if not copied.cancel()])
        raise CancelledError

    def _advance_by(self, size: int) -> None:
        with self._advancing:
            self._advance(size)

    def _copy_block(self, file: OutputFile, target: "_Target", buffer: Bytes, start: int, size: int) -> None:
        fill(buffer[:size], file, start, self._sources)
        target.write(buffer, start, size)


class _Target:
    """A file that is written in aligned blocks by several threads of one process: another one waits for it."""

    def __init__(self, path: Path, size: int) -> None:
        self._size = size
        # Not cut off: what is there already takes no disk again.
        flags = os.O_WRONLY | os.O_CREAT
        try:
            self._descriptor = os.open(path, flags | os.O_DIRECT, 0o666)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._descriptor = os.open(path, flags, 0o666)  # such as tmpfs
        self._lock(path)

    def __enter__(self) -> "_Target":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def complete(self) -> None:
        """Everything is written: cut off what is beyond, and see it to the disk."""
        os.ftruncate(self._descriptor, self._size)
        os.fsync(self._descriptor)

    def write(self, buffer: Bytes, offset: int, size: int) -> None:
        """The first `size` bytes of an aligned buffer; what is written beyond them is cut off in the end."""
        left = -(-size // ALIGNMENT) * ALIGNMENT
        while left:
            direct = self._is_direct()
            try:
                written = os.pwrite(self._descriptor, buffer.data[:left], offset)
            except OSError as refused:
                if refused.errno != errno.EINVAL or not direct:
                    raise
                self._write_buffered()
                continue
            buffer, offset, left = buffer[written:], offset + written, left - written

    def _is_direct(self) -> bool:
        return bool(fcntl.fcntl(self._descriptor, fcntl.F_GETFL) & os.O_DIRECT)

    def _write_buffered(self) -> None:
        """Through the page cache from now on."""
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)

    def _lock(self, path: Path) -> None:
        with contextlib.suppress(OSError):  # file systems without locks
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        if not path.exists() or path.stat().st_ino != os.fstat(self._descriptor).st_ino:
            os.close(self._descriptor)
            raise ArtifactError(f"another process made {path} and moved it away; run it again")


def _aligned(size: int) -> Bytes:
    return np.frombuffer(mmap.mmap(-1, size), np.uint8)


def mark(file: OutputFile, directory: Path) -> Path:
    """Where a file's mark lies."""
    return directory / f"{file.name}.done"


def remove_marks(files: Sequence[OutputFile], directory: Path) -> None:
    """The next try makes these files again."""
    for file in files:
        mark(file, directory).unlink(missing_ok=True)
