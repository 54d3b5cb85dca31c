"""Which boxes of a weight a chunk of a checkpoint holds.

A chunk is a box itself, with layers in front where they are stacked. Only the distributed optimizer of megatron-core before 0.16
wrote others: it cuts what a rank has of a tensor, flattened, into ranges of numbers. A range is up to three boxes: the end of a
row, whole rows, and the beginning of one.
"""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

from megatron_octo.conversion.dist_metadata import METADATA, Chunk, Entry
from megatron_octo.conversion.plan import Box
from megatron_octo.conversion.torch_archive import TensorRef
from megatron_octo.errors import ArtifactError


def holds(entry: Entry, chunk: Chunk, layer: int) -> bool:
    """Whether numbers of a layer are in a chunk."""
    if entry.fragments is None:
        return chunk.offsets[0] <= layer < chunk.offsets[0] + chunk.sizes[0]
    layers = entry.shape[0] // entry.fragments[0]
    low, high = _range_of_layer(entry, chunk, layer)
    return layer // layers == chunk.offsets[0] and low < high


def boxes(file: Path, entry: Entry, chunk: Chunk, ref: TensorRef, layer: int | None) -> Iterator[Box]:
    """Boxes of a weight, or of one layer of it.

    Raises:
        ArtifactError: the chunk is not what `.metadata` says, or numbers of a row do not lie side by side.
    """
    where = f"{file}: the chunk at {list(chunk.offsets)}"
    if ref.shape != chunk.sizes:
        raise ArtifactError(
            f"{where} is {list(ref.shape)}, {METADATA} says {list(chunk.sizes)}; the checkpoint is damaged"
        )
    if entry.fragments is not None:
        yield from _flat_boxes(file, entry, chunk, ref, layer)
        return
    start, size, strides = chunk.offsets, chunk.sizes, ref.strides
    offset, itemsize = ref.offset, ref.dtype.itemsize
    if layer is not None:
        offset += (layer - start[0]) * strides[0] * itemsize
        start, size, strides = start[1:], size[1:], strides[1:]
    column, columns, step = (start[1], size[1], strides[1]) if len(size) > 1 else (0, 1, 1)
    if len(size) > 2 or (columns > 1 and step != 1):
        raise ArtifactError(
            f"{where} has {len(size)} axes with strides {list(strides)}; "
            "only rows whose numbers lie side by side are read; save the checkpoint again"
        )
    yield Box(file, offset, start[0], column, size[0], columns, strides[0] * itemsize, ref.scale)


def _flat_boxes(file: Path, entry: Entry, chunk: Chunk, ref: TensorRef, layer: int | None) -> Iterator[Box]:
    local, at = _local(entry), chunk.offsets[:-1]
    low, high = (chunk.offsets[-1], chunk.offsets[-1] + chunk.sizes[-1])
    # Of the flattened box, what is before the layer, if layers are stacked.
    skipped = 0
    if layer is not None:
        skipped = layer % local[0] * math.prod(local[1:])
        low, high = _range_of_layer(entry, chunk, layer)
        local, at = local[1:], at[1:]
    columns = math.prod(local[1:])
    itemsize = ref.dtype.itemsize
    first_row, first_column = at[0] * local[0], at[1] * local[1] if len(at) > 1 else 0
    for begin, end in _pieces(low - skipped, high - skipped, columns):
        offset = ref.offset + (skipped + begin - chunk.offsets[-1]) * itemsize
        row, column = divmod(begin, columns)
        rows = max(1, (end - begin) // columns)
        width = (end - begin) // rows
        yield Box(file, offset, first_row + row, first_column + column, rows, width, width * itemsize, ref.scale)


def _range_of_layer(entry: Entry, chunk: Chunk, layer: int) -> tuple[int, int]:
    """Numbers of a layer in a chunk, counted within the flattened box."""
    local = _local(entry)
    numbers = math.prod(local[1:])
    first = layer % local[0] * numbers
    return max(first, chunk.offsets[-1]), min(first + numbers, chunk.offsets[-1] + chunk.sizes[-1])


def _local(entry: Entry) -> tuple[int, ...]:
    """Shape of what one rank has of a tensor."""
    assert entry.fragments is not None
    return tuple(size // count for size, count in zip(entry.shape, entry.fragments, strict=True))


def _pieces(low: int, high: int, columns: int) -> Iterator[tuple[int, int]]:
    """A range of numbers as the end of a row, whole rows, and the beginning of one."""
    whole, last = -(-low // columns) * columns, high // columns * columns
    cuts = [low, high] if whole > last else [low, whole, last, high]
    for begin, end in itertools.pairwise(cuts):
        if begin < end:
            yield begin, end
