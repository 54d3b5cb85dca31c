"""What a conversion copies: for every tensor of every output file, which bytes of which source file. Values only; no torch.

A tensor is seen as rows x columns: its first axis, and all others together. Every difference between a Hugging Face and a
Megatron tensor is an order of whole rows (query, key and value by group; gate over up; padding of the vocabulary), and every
way of a checkpoint to cut one over ranks is a grid of boxes. So a plan is

    Stored      a tensor of the source, as boxes of numbers that lie in files
    Wanted      a tensor of the output, as runs of rows of stored tensors
    OutputFile  bytes known beforehand (headers), and wanted tensors at their places

and `Wanted.copies` turns a range of rows into (file, offset, length, stride).
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from megatron_octo.conversion.dtypes import BF16, FP32, Dtype
from megatron_octo.errors import ArtifactError


@dataclass(frozen=True, slots=True)
class Box:
    """Rows [row, row + rows) and columns [column, column + columns) of a tensor, as they lie in a file."""

    file: Path
    #: Of the first number, bytes.
    offset: int
    row: int
    column: int
    rows: int
    columns: int
    #: From one row to the next, bytes; numbers of a row lie side by side.
    stride: int
    #: What the numbers are multiplied with: FP8 parameters have one, of every rank its own.
    scale: float | None = None

    @property
    def numbers(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True)
class Stored:
    """A tensor of the source: boxes that cover it without overlap."""

    name: str
    shape: tuple[int, ...]
    dtype: Dtype
    boxes: tuple[Box, ...]

    @property
    def rows(self) -> int:
        return self.shape[0]

    @property
    def columns(self) -> int:
        return math.prod(self.shape[1:])

    @property
    def natural_dtype(self) -> Dtype:
        """What the numbers are written as when nothing else is asked for: scaled FP8 becomes bf16, as it was computed with."""
        return BF16 if any(box.scale is not None for box in self.boxes) else self.dtype


@dataclass(frozen=True, slots=True)
class Run:
    """`count` rows of a stored tensor from `source_row` on, which become those of a wanted one from `row` on."""

    source: Stored
    source_row: int
    row: int
    count: int


@dataclass(frozen=True, slots=True)
class Copy:
    """`count` pieces of `length` bytes, `stride` bytes apart in the file, to rows of a block from `row` on, at a column."""

    source: Stored
    box: Box
    offset: int
    length: int
    stride: int
    count: int
    #: Within the block that was asked for.
    row: int
    column: int

    @property
    def contiguous(self) -> bool:
        return self.count == 1 or self.stride == self.length


@dataclass(frozen=True)
class Wanted:
    """A tensor of the output: runs of stored rows, in order, that fill it."""

    name: str
    shape: tuple[int, ...]
    dtype: Dtype
    runs: tuple[Run, ...]

    @property
    def rows(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def num_bytes(self) -> int:
        return self.rows * self.row_bytes

    @property
    def rounds(self) -> bool:
        """Whether numbers of the source are not held by the format they are written in."""
        sources = {run.source.natural_dtype for run in self.runs}
        return not all(self.dtype in (source, FP32) for source in sources)

    def copies(self, first: int, end: int) -> list[Copy]:
        """What fills rows [first, end)."""
        return [copy for run in self.runs for copy in _copies(run, first, end)]


def whole(source: Stored, *, like: Wanted) -> Wanted:
    """A stored tensor as it is, in the number format and with the rows of another: a padded vocabulary is cut."""
    return Wanted(like.name, like.shape, like.dtype, (Run(source, 0, 0, like.rows),))


def prevailing_dtype(tensors: Sequence[Wanted]) -> Dtype:
    """The number format of most bytes."""
    num_bytes = Counter[Dtype]()
    for tensor in tensors:
        num_bytes[tensor.dtype] += tensor.num_bytes
    return num_bytes.most_common(1)[0][0]


def _copies(run: Run, first: int, end: int) -> Iterator[Copy]:
    low, high = max(first, run.row), min(end, run.row + run.count)
    # the same rows, as the source counts them
    shift = run.source_row - run.row
    for box in run.source.boxes:
        top, bottom = max(low + shift, box.row), min(high + shift, box.row + box.rows)
        if top < bottom:
            yield Copy(
                source=run.source,
                box=box,
                offset=box.offset + (top - box.row) * box.stride,
                length=box.columns * run.source.dtype.itemsize,
                stride=box.stride,
                count=bottom - top,
                row=top - shift - first,
                column=box.column,
            )


@dataclass(frozen=True)
class OutputFile:
    """A file whose every byte is known before the first is copied."""

    name: str
    size: int
    #: Bytes known beforehand, by offset.
    literals: Mapping[int, bytes]
    #: Offset of each tensor's first byte.
    tensors: tuple[tuple[int, Wanted], ...]
    #: The source files as they were when the plan was made.
    sources: Mapping[Path, "Version"] = field(init=False)
    #: Of all that decides the bytes: what a finished file must have been made by to count.
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        found = {box.file for _, wanted in self.tensors for run in wanted.runs for box in run.source.boxes}
        object.__setattr__(self, "sources", {path: _version(path) for path in sorted(found)})
        object.__setattr__(self, "digest", _digest(self))

    def changed_sources(self) -> list[str]:
        return [str(path) for path, version in self.sources.items() if _version(path) != version]


def _digest(file: OutputFile) -> str:
    # Every stored tensor once: many runs come from the same one.
    stored = {id(run.source): run.source for _, wanted in file.tensors for run in wanted.runs}
    number = {identity: index for index, identity in enumerate(stored)}
    tensors = [
        (offset, wanted.name, wanted.shape, wanted.dtype,
         [(number[id(run.source)], run.source_row, run.row, run.count) for run in wanted.runs])
        for offset, wanted in file.tensors
    ]  # fmt: skip
    decisive = (file.size, sorted(file.literals.items()), list(file.sources.items()), list(stored.values()), tensors)
    return hashlib.sha256(repr(decisive).encode()).hexdigest()


#: Bytes, nanoseconds of the last change, inode; none of a file that is gone.
Version = tuple[int, ...]


def _version(file: Path) -> Version:
    try:
        found = file.stat()
    except FileNotFoundError:
        return ()
    return found.st_size, found.st_mtime_ns, found.st_ino


def stored(name: str, shape: tuple[int, ...], dtype: Dtype, boxes: tuple[Box, ...]) -> Stored:
    """A stored tensor whose boxes were looked at. Raises `ArtifactError` when they do not cover it exactly once."""
    tensor = Stored(name, shape, dtype, boxes)
    there, needed = sum(box.numbers for box in boxes), tensor.rows * tensor.columns
    if there != needed:
        raise ArtifactError(f"{name}: {there:,} of {needed:,} numbers are there; the checkpoint is incomplete")
    if not _are_apart(boxes, rows=tensor.rows, columns=tensor.columns):
        raise ArtifactError(
            f"{name}: its {len(boxes)} chunks overlap, so that others are missing; the checkpoint is damaged"
        )
    return tensor


def _are_apart(boxes: tuple[Box, ...], *, rows: int, columns: int) -> bool:
    """Whether no two boxes share a number and all lie inside the tensor."""
    above: list[Box] = []
    for box in sorted(boxes, key=lambda box: (box.row, box.column)):
        above = [other for other in above if other.row + other.rows > box.row]
        if any(_share_columns(box, other) for other in above):
            return False
        above.append(box)
    return all(box.row + box.rows <= rows and box.column + box.columns <= columns for box in boxes)


def _share_columns(one: Box, other: Box) -> bool:
    return one.column < other.column + other.columns and other.column < one.column + one.columns
