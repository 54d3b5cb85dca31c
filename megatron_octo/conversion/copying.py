"""Makes the files of a plan: bytes go from file to file inside the kernel where they stay as they are, through a small buffer where not.

A file is finished when its mark NAME.done lies beside it, written after the bytes are on the disk. A second run, or another
machine, skips the finished ones; a half-written file is written again from its beginning. Memory is bounded by workers x
`BLOCK_BYTES` (and the bytes a block is made of), whatever the size of the model.
"""

import errno
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType

import numpy as np
import numpy.typing as npt

from megatron_octo import artifacts, progress
from megatron_octo.conversion.dtypes import cast
from megatron_octo.conversion.plan import Copy, OutputFile, Wanted
from megatron_octo.errors import ArtifactError, ConfigError

BLOCK_BYTES = 8 << 20
#: Shorter pieces are gathered in memory: a system call for each would cost more. Guess; 32 and 256 KiB measured no different.
MIN_RANGE_BYTES = 64 << 10
#: What the kernel answers where it cannot copy from file to file: other file systems, network mounts, old kernels.
_NO_RANGES = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM)

#: Hashed at a time: less than a processor's cache.
HASH_BYTES = 1 << 20

Bytes = npt.NDArray[np.uint8]
Block = tuple[int, int]
#: Offsets of a file before which everything is written, growing; None where no more will be.
Reached = SimpleQueue[int | None]


def blocks(wanted: Wanted) -> Iterator[Block]:
    """Row ranges [first, end) of at most `BLOCK_BYTES`, or one row, that cover a tensor in order."""
    rows = max(1, BLOCK_BYTES // wanted.row_bytes)
    for first in range(0, wanted.rows, rows):
        yield first, min(first + rows, wanted.rows)


class Sources:
    """The source files of a conversion, opened when first read; shared by threads. Raises `ArtifactError` naming the file."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "Sources":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def gather(self, wanted: Wanted, first: int, end: int) -> Bytes:
        """Bytes [end - first, row bytes] of a tensor's rows, in its own number format."""
        block = np.empty((end - first, wanted.row_bytes), np.uint8)
        for copy in wanted.copies(first, end):
            numbers = self._cast(wanted, copy, self._read(copy))
            start = copy.column * wanted.dtype.itemsize
            block[copy.row : copy.row + copy.count, start : start + numbers.shape[1]] = numbers
        return block

    def copy_range(self, copy: Copy, descriptor: int, offset: int) -> bool:
        """Copy contiguous bytes to an open file without reading them. False where the kernel cannot."""
        source, position, left = self.descriptor(copy.box.file), copy.offset, copy.count * copy.length
        while left:
            try:
                copied = os.copy_file_range(source, descriptor, left, position, offset)
            except OSError as error:
                if error.errno in _NO_RANGES:
                    return False
                raise
            if not copied:
                raise _ends_early(copy)
            position, offset, left = position + copied, offset + copied, left - copied
        return True

    def descriptor(self, file: Path) -> int:
        with self._lock:
            if file not in self._descriptors:
                try:
                    self._descriptors[file] = os.open(file, os.O_RDONLY)
                except OSError as error:
                    raise ArtifactError(f"cannot read {file}: {error.strerror}; the source is incomplete") from error
            return self._descriptors[file]

    def _read(self, copy: Copy) -> Bytes:
        """Bytes [count, length] as they lie in the file."""
        # The last piece has no gap behind it.
        needed = (copy.count - 1) * copy.stride + copy.length
        buffer = np.empty(copy.count * copy.stride, np.uint8)
        read, descriptor = 0, self.descriptor(copy.box.file)
        while read < needed:
            got = os.preadv(descriptor, [buffer.data[read:needed]], copy.offset + read)
            if not got:
                raise _ends_early(copy)
            read += got
        return buffer.reshape(copy.count, copy.stride)[:, : copy.length]

    def _cast(self, wanted: Wanted, copy: Copy, found: Bytes) -> Bytes:
        if wanted.dtype == copy.source.dtype and copy.box.scale is None:
            return found
        numbers = np.ascontiguousarray(found).view(copy.source.dtype.numpy)
        try:
            return cast(numbers, wanted.dtype, copy.box.scale).view(np.uint8)
        except OverflowError as error:
            raise ConfigError(
                f"{copy.source.name}: {error}; choose another dtype: bf16 holds the range of fp32"
            ) from error


def _ends_early(copy: Copy) -> ArtifactError:
    return ArtifactError(f"{copy.box.file} ends before {copy.source.name}; the source is cut off")


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
        mark = Mark(**json.loads(_mark(file, directory).read_text()))
        there = (directory / file.name).stat().st_size
    except (OSError, ValueError, TypeError):
        return None
    return mark if (mark.digest, mark.bytes) == (file.digest, there) else None


def remove_marks(files: Iterable[OutputFile], directory: Path) -> None:
    for file in files:
        _mark(file, directory).unlink(missing_ok=True)


def make(files: Sequence[OutputFile], directory: Path, *, workers: int, advance: progress.Advance) -> None:
    """Make the files, each complete on the disk before its mark.

    Raises:
        ArtifactError: a source file is missing or ends early.
        ConfigError: a number does not fit the number format.
        OSError: the disk is full.
    """
    with Sources() as sources, ThreadPoolExecutor(workers) as hashers, ThreadPoolExecutor(workers) as finishers:
        finishing = []
        for file in files:
            reached: Reached = SimpleQueue()
            sha256 = hashers.submit(_hash_behind, directory / file.name, file.size, reached)
            try:
                _copy(file, directory, sources, workers, advance, reached)
            finally:
                reached.put(None)
            # It goes to the disk while the next ones are copied.
            finishing.append(finishers.submit(_finish, file, directory, sha256))
        for finish in finishing:
            finish.result()


def _copy(
    file: OutputFile, directory: Path, sources: Sources, workers: int, advance: progress.Advance, reached: Reached
) -> None:
    # Not cut off first: two tasks that were given the same share write the same bytes.
    descriptor = os.open(directory / file.name, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        os.ftruncate(descriptor, file.size)
        for offset, literal in file.literals.items():
            _write(descriptor, memoryview(literal), offset)
        work = [(offset, wanted, block) for offset, wanted in file.tensors for block in blocks(wanted)]
        with ThreadPoolExecutor(workers) as copiers:
            try:
                # in this order, however they end
                for copied, (offset, wanted, (_, end)) in zip(
                    copiers.map(lambda item: _copy_block(sources, descriptor, *item), work), work, strict=True
                ):
                    advance(copied)
                    reached.put(offset + end * wanted.row_bytes)
                reached.put(file.size)
            except BaseException:
                copiers.shutdown(cancel_futures=True)
                raise
    finally:
        os.close(descriptor)


def _copy_block(sources: Sources, descriptor: int, offset: int, wanted: Wanted, block: Block) -> int:
    """The number of bytes written."""
    first, end = block
    start, size = offset + first * wanted.row_bytes, (end - first) * wanted.row_bytes
    copies = wanted.copies(first, end)
    if not (_stays(wanted, copies) and _copy_ranges(sources, copies, descriptor, start, wanted.row_bytes)):
        _write(descriptor, sources.gather(wanted, first, end).data.cast("B"), start)
    return size


def _stays(wanted: Wanted, copies: Sequence[Copy]) -> bool:
    """Whether a block is made of a few contiguous pieces, in the number format in which they are stored."""
    return all(
        copy.contiguous
        and copy.length == wanted.row_bytes
        and copy.source.dtype == wanted.dtype
        and copy.box.scale is None
        and (len(copies) == 1 or copy.count * copy.length >= MIN_RANGE_BYTES)
        for copy in copies
    )


def _copy_ranges(sources: Sources, copies: Sequence[Copy], descriptor: int, start: int, row_bytes: int) -> bool:
    return all(sources.copy_range(copy, descriptor, start + copy.row * row_bytes) for copy in copies)


def _write(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _hash_behind(path: Path, size: int, reached: Reached) -> str:
    """sha256 of a file that is being written, from the page cache, behind the offsets that are `reached` for good.

    None ends it early, where the copy failed.
    """
    found, buffer, position = hashlib.sha256(), memoryview(bytearray(HASH_BYTES)), 0
    while position < size and (end := reached.get()) is not None:
        with path.open("rb", buffering=0) as stream:
            stream.seek(position)
            while position < end:
                read = stream.readinto(buffer[: end - position])
                if not read:
                    raise ArtifactError(f"{path} was cut off by somebody else while it was written; run it again")
                found.update(buffer[:read])
                position += read
    return found.hexdigest()


def _finish(file: OutputFile, directory: Path, sha256: Future[str]) -> None:
    """Bytes to the disk; then the mark."""
    with (directory / file.name).open("rb") as stream:
        os.fsync(stream.fileno())
    mark = Mark(digest=file.digest, bytes=file.size, sha256=sha256.result())
    artifacts.write_json(_mark(file, directory), asdict(mark))


def _mark(file: OutputFile, directory: Path) -> Path:
    return directory / f"{file.name}.done"
