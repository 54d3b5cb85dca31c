"""The `.metadata` of a torch_dist checkpoint, which says where every chunk of every tensor lies; read and written without torch."""

import gc
import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo.conversion import pickles
from megatron_octo.conversion.dtypes import Dtype
from megatron_octo.conversion.pickles import Call, CalledRecord, Forgotten, Global, Instance, Record
from megatron_octo.conversion.torch_archive import DTYPES
from megatron_octo.errors import ArtifactError


@dataclass(frozen=True, slots=True)
class Chunk:
    """A box of a tensor: an archive of `length` bytes from `offset` on in a file."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    offset: int
    #: None: no file has it.
    length: int | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor, its layers stacked where the key has no number of them."""

    shape: tuple[int, ...]
    #: As it was computed with: what lies in the file may be FP8.
    dtype: Dtype
    chunks: tuple[Chunk, ...]
    #: None, or into how many ranks' parts each axis is cut, whose numbers were flattened: chunks then have the offsets and
    #: sizes of [*fragments, numbers of a part].
    fragments: tuple[int, ...] | None = None


METADATA = ".metadata"
_CHECKPOINT = "torch.distributed.checkpoint"
_METADATA = f"{_CHECKPOINT}.metadata"
_PLANNER = f"{_CHECKPOINT}.planner"
_SHARD_METADATA = "torch.distributed._shard.sharded_tensor.metadata"
_MEGATRON = "megatron.core.dist_checkpointing.strategies.torch"
#: What a `.metadata` may name, of torch 2.1 to 2.13 and megatron-core 0.6 to 0.16.
_NAMES: dict[tuple[str, str], Any] = {
    **{
        (_METADATA, name): Record
        for name in (
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "TensorStorageMetadata",
        )
    },
    (f"{_CHECKPOINT}.filesystem", "_StorageInfo"): Record,
    (_MEGATRON, "MCoreMetadata"): Record,
    # Pickled as a tuple; torch 2.1 and 2.2 had the class elsewhere.
    (_METADATA, "TensorProperties"): CalledRecord,
    (_SHARD_METADATA, "TensorProperties"): CalledRecord,
    (_METADATA, "_MEM_FORMAT_ENCODING"): CalledRecord,
    (_SHARD_METADATA, "MEM_FORMAT_ENCODING"): CalledRecord,
    ("torch.serialization", "_get_layout"): CalledRecord,
    ("torch", "device"): CalledRecord,
    # Megatron keeps the plan it saved by, for the next save.
    **{(_PLANNER, name): Forgotten for name in ("SavePlan", "TensorWriteData", "BytesIOWriteData", "WriteItem")},
    (f"{_CHECKPOINT}.filesystem", "_StoragePrefix"): Forgotten,
    (_MEGATRON, "MCoreSavePlan"): Forgotten,
    (_PLANNER, "WriteItemType"): CalledRecord,
    # torch's own writer notes the directory it wrote to.
    (_METADATA, "StorageMeta"): Forgotten,
    ("pathlib", "PosixPath"): CalledRecord,
    ("pathlib._local", "PosixPath"): CalledRecord,
    ("collections", "OrderedDict"): dict,
    ("torch", "Size"): tuple,
    **{("torch", name): name for name in DTYPES},
}


def read_metadata(file: Path, keep: Callable[[str], bool]) -> dict[str, Entry]:
    """Tensors by key; other objects (`_extra_state`) are left out.

    Args:
        keep: of which keys. What an optimizer keeps is three times the model, in many more chunks.

    Raises:
        ArtifactError: the file is missing, damaged, or names what it should not.
    """
    try:
        with file.open("rb") as stream:
            found = _load(stream)
        return dict(_entries(found, keep))
    except OSError as error:
        raise ArtifactError(f"{file.parent} is no torch_dist checkpoint: {file.name}: {error.strerror}") from error
    except pickle.UnpicklingError as error:
        raise ArtifactError(f"{file} cannot be read: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{file} does not hold a checkpoint's metadata: {error}") from error


def _load(stream: Any) -> Any:
    # Everything stays until the end, so that looking for garbage, which would take half of the time, finds none.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return pickles.load(stream, _NAMES)
    finally:
        if collecting:
            gc.enable()


def _entries(metadata: Any, keep: Callable[[str], bool]) -> Iterable[tuple[str, Entry]]:
    places = {
        (index.fqn, getattr(index, "offset", None)): info
        for index, info in metadata.storage_data.items()
        if keep(index.fqn)
    }
    unflattened = getattr(metadata, "mcore_data", None) or {}
    for key, found in metadata.state_dict_metadata.items():
        if type(found).__name__ == "TensorStorageMetadata" and keep(key):
            chunks = tuple(_chunk(places.get((key, chunk.offsets)), chunk) for chunk in found.chunks)
            # megatron-core before 0.16, of flattened tensors
            shape = unflattened.get(key, {}).get("nd_reformulated_orig_global_shape")
            fragments = found.size[:-1] if shape else None
            yield key, Entry(tuple(shape or found.size), _dtype(found.properties), chunks, fragments)


def _chunk(place: Any, found: Any) -> Chunk:
    if place is None:
        return Chunk(found.offsets, found.sizes, "", 0, None)
    file = place.relative_path
    if Path(file).name != file:
        raise ValueError(f"a chunk lies in {file}, outside of the checkpoint")
    if getattr(place, "transform_descriptors", None):
        raise ValueError(
            f"{file} is transformed ({', '.join(place.transform_descriptors)}); save it without extensions"
        )
    return Chunk(found.offsets, found.sizes, file, place.offset, place.length)


def _dtype(properties: Any) -> Dtype:
    # a tuple of dtype, layout and others
    return DTYPES[properties.state[0]]


# Writing --------------------------------------------------------------------------------------------------------------


def encode_metadata(entries: Mapping[str, Entry]) -> bytes:
    """The pickle that torch makes of its own `Metadata`, up to what is shared within it."""
    tensors = {key: _tensor(entry) for key, entry in entries.items()}
    places = [_place(key, chunk) for key, entry in entries.items() for chunk in entry.chunks]
    state = {
        "state_dict_metadata": tensors,
        "planner_data": None,
        "storage_data": dict(places),
        "storage_meta": None,
        "version": "1.0.0",
    }
    return pickles.dumps(Instance(Global(_METADATA, "Metadata"), state))


def _tensor(entry: Entry) -> Instance:
    chunks = [
        Instance(
            Global(_METADATA, "ChunkStorageMetadata"), {"offsets": _size(chunk.offsets), "sizes": _size(chunk.sizes)}
        )
        for chunk in entry.chunks
    ]
    # Dtype, layout, requires_grad, memory format, pin_memory: torch's `TensorProperties.__getstate__`.
    layout = Call(Global("torch.serialization", "_get_layout"), ("torch.strided",))
    contiguous = Call(Global(_METADATA, "_MEM_FORMAT_ENCODING"), (0,))
    properties = (Global("torch", entry.dtype.name), layout, False, contiguous, False)
    return Instance(
        Global(_METADATA, "TensorStorageMetadata"),
        {
            "properties": Instance(Global(_METADATA, "TensorProperties"), properties),
            "size": _size(entry.shape),
            "chunks": chunks,
        },
    )


def _place(key: str, chunk: Chunk) -> tuple[Instance, Instance]:
    index = {"fqn": key, "index": None, "offset": _size(chunk.offsets)}
    info = {"relative_path": chunk.file, "offset": chunk.offset, "length": chunk.length}
    return (
        Instance(Global(_METADATA, "MetadataIndex"), index),
        Instance(Global(f"{_CHECKPOINT}.filesystem", "_StorageInfo"), info),
    )


def _size(numbers: tuple[int, ...]) -> Call:
    return Call(Global("torch", "Size"), (numbers,))
