"""The header of a safetensors file, read and written: 8 bytes of length, JSON of that length, and the bytes of the tensors, side by side.

https://github.com/huggingface/safetensors#format; refused is what the safetensors package refuses, too.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from megatron_octo.conversion.dtypes import FLOATS
from megatron_octo.conversion.plan import Wanted
from megatron_octo.errors import ArtifactError

#: The format's own limit: what no header needs is not read into memory.
MAX_HEADER_BYTES = 100_000_000
#: Bytes of the number that comes first.
LENGTH_BYTES = 8
METADATA = "__metadata__"
#: Number formats of weights, as a header spells them.
FORMATS = {dtype.safetensors: dtype for dtype in FLOATS}


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor as the header has it."""

    #: One of `FORMATS`, or of those that are not converted.
    dtype: str
    shape: tuple[int, ...]
    #: First byte and the one behind the last, in the file.
    first: int
    end: int


def read(file: Path) -> dict[str, Entry]:
    """The tensors of a file by name. Raises `ArtifactError` when it is cut off, or is not such a file."""
    with file.open("rb") as stream:
        size = file.stat().st_size
        header, start = _json(stream, file, size)
    try:
        entries = {name: _entry(entry, start) for name, entry in header.items() if name != METADATA}
    except (KeyError, TypeError, ValueError) as error:
        raise unreadable(file, f"its header is malformed ({error!r})") from error
    _check(entries, file, start, size)
    return entries


def written(tensors: Iterable[Wanted]) -> bytes:
    """Length and header of a file with these tensors, of a multiple of eight bytes."""
    entries: dict[str, Any] = {METADATA: {"format": "pt"}}
    first = 0
    for wanted in tensors:
        end = first + wanted.num_bytes
        entries[wanted.name] = {
            "dtype": wanted.dtype.safetensors, "shape": list(wanted.shape), "data_offsets": [first, end]
        }  # fmt: skip
        first = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def unreadable(file: Path, why: str) -> ArtifactError:
    return ArtifactError(f"cannot read {file}: {why}; fetch or write it again")


def _json(stream: BinaryIO, file: Path, size: int) -> tuple[dict[str, Any], int]:
    """The header, and where the tensors' bytes begin."""
    length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
    if size < LENGTH_BYTES or length > MAX_HEADER_BYTES:
        raise unreadable(file, "it does not begin as a safetensors file does")
    start = LENGTH_BYTES + length
    if size < start:
        raise unreadable(file, f"it is cut off at {size:,} bytes, inside its header of {start:,}")
    try:
        header = json.loads(stream.read(length))
    except ValueError as error:
        raise unreadable(file, f"its header is no JSON ({error})") from error
    if not isinstance(header, dict):
        raise unreadable(file, "its header is no JSON object")
    return header, start


def _entry(entry: Any, start: int) -> Entry:
    dtype, shape, (first, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, first, end)) or end < first:
        raise ValueError(f"shape {list(shape)} at bytes {first} to {end}")
    return Entry(str(dtype), shape, start + first, start + end)


def _check(entries: dict[str, Entry], file: Path, start: int, size: int) -> None:
    """Every byte behind the header belongs to one tensor, and every tensor has as many as its numbers need."""
    last = max((entry.end for entry in entries.values()), default=start)
    if size != last:
        what = "it is cut off" if size < last else "there is more in it"
        raise unreadable(file, f"{what}: {size:,} bytes, and its header tells of {last:,}")
    position = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].first, item[1].end)):
        if entry.first != position:
            raise unreadable(file, f"{name} begins at byte {entry.first:,}, the tensor before it ends at {position:,}")
        position = entry.end
        dtype = FORMATS.get(entry.dtype)
        # other formats are refused by whoever wants the tensor
        if dtype is not None and (needed := math.prod(entry.shape) * dtype.itemsize) != entry.end - entry.first:
            raise unreadable(
                file,
                f"{name} has {entry.end - entry.first:,} bytes, {entry.dtype} {list(entry.shape)} needs {needed:,}",
            )
