"""Reads what a plan says: rows of a tensor from where they lie, or a stretch of an output file, in one number format."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from megatron_octo.conversion.dtypes import cast
from megatron_octo.conversion.plan import Copy, OutputFile, Wanted
from megatron_octo.errors import ArtifactError, ConfigError

BLOCK_BYTES = 8 << 20
#: Read at a time where pieces are put together or cast: less than a processor's cache.
SCRATCH_BYTES = 1 << 20

Bytes = npt.NDArray[np.uint8]
Block = tuple[int, int]


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
        self._scratch = threading.local()

    def __enter__(self) -> "Sources":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def gather(self, wanted: Wanted, first: int, end: int) -> Bytes:
        """Bytes [end - first, row bytes] of a tensor's rows, in its own number format."""
        rows = np.empty((end - first, wanted.row_bytes), np.uint8)
        self.gather_into(rows, wanted, first)
        return rows

    def gather_into(self, rows: Bytes, wanted: Wanted, first: int) -> None:
        """The tensor's rows from `first` on, to contiguous `rows` [N, row bytes]."""
        for copy in wanted.copies(first, first + len(rows)):
            if copy.contiguous and copy.length == wanted.row_bytes and not _is_cast(wanted, copy):
                self._read_into(rows[copy.row : copy.row + copy.count].reshape(-1), copy)
                continue
            for done in range(0, copy.count, at_once := max(1, SCRATCH_BYTES // copy.stride)):
                numbers = self._cast(wanted, copy, self._read(copy, done, min(at_once, copy.count - done)))
                row, start = copy.row + done, copy.column * wanted.dtype.itemsize
                rows[row : row + len(numbers), start : start + numbers.shape[1]] = numbers

    def _descriptor(self, file: Path) -> int:
        with self._lock:
            if file not in self._descriptors:
                try:
                    self._descriptors[file] = os.open(file, os.O_RDONLY)
                except OSError as error:
                    raise ArtifactError(f"cannot read {file}: {error.strerror}") from error
            return self._descriptors[file]

    def _read(self, copy: Copy, done: int, count: int) -> Bytes:
        """`count` of the pieces, [count, length], good until this thread's next call."""
        stride = copy.stride if count > 1 else copy.length
        # The last piece has no gap behind it.
        buffer, needed = self._buffer(count * stride), (count - 1) * stride + copy.length
        self._read_into(buffer[:needed], copy, skip=done * copy.stride)
        return buffer.reshape(count, stride)[:, : copy.length]

    def _buffer(self, size: int) -> Bytes:
        """This thread's own: memory that is new for every piece costs more than reading it."""
        found: Bytes | None = getattr(self._scratch, "buffer", None)
        if found is None or found.size < size:
            found = self._scratch.buffer = np.empty(max(size, SCRATCH_BYTES), np.uint8)
        return found[:size]

    def _read_into(self, target: Bytes, copy: Copy, *, skip: int = 0) -> None:
        descriptor, read = self._descriptor(copy.box.file), 0
        while read < target.size:
            got = os.preadv(descriptor, [target.data[read:]], copy.offset + skip + read)
            if not got:
                raise ArtifactError(f"{copy.box.file} ends before {copy.source.name}; the source is cut off")
            read += got

    def _cast(self, wanted: Wanted, copy: Copy, found: Bytes) -> Bytes:
        if not _is_cast(wanted, copy):
            return found
        numbers = np.ascontiguousarray(found).view(copy.source.dtype.numpy)
        try:
            return cast(numbers, wanted.dtype, copy.box.scale).view(np.uint8)
        except OverflowError as error:
            raise ConfigError(
                f"{copy.source.name}: {error}; choose another dtype: bf16 holds the range of fp32"
            ) from error


def _is_cast(wanted: Wanted, copy: Copy) -> bool:
    return wanted.dtype != copy.source.dtype or copy.box.scale is not None


def fill(block: Bytes, file: OutputFile, start: int, sources: Sources) -> None:
    """The bytes of a file from `start` on."""
    end = start + block.size
    for offset, literal in file.literals.items():
        low, high = max(start, offset), min(end, offset + len(literal))
        if low < high:
            block[low - start : high - start] = np.frombuffer(literal[low - offset : high - offset], np.uint8)
    for offset, wanted in file.tensors:
        low, high = max(start, offset), min(end, offset + wanted.num_bytes)
        if low < high:
            _fill_tensor(block[low - start : high - start], wanted, low - offset, sources)


def _fill_tensor(target: Bytes, wanted: Wanted, start: int, sources: Sources) -> None:
    """Bytes of a tensor from `start` on. The rows that the target has whole are read where they belong."""
    size, end = wanted.row_bytes, start + target.size
    first, last = -(-start // size), end // size
    if first >= last:  # no whole row
        first = last = end // size
    for row, low, high in ((start // size, start, min(first * size, end)), (end // size, max(last * size, start), end)):
        if low < high:
            whole = sources.gather(wanted, row, -(-high // size)).reshape(-1)
            target[low - start : high - start] = whole[low - row * size : high - row * size]
    rows = target[first * size - start : last * size - start] if first < last else target[:0]
    if rows.size:
        sources.gather_into(rows.reshape(-1, size), wanted, first)
