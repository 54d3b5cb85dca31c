"""Megatron `torch_dist` checkpoints, one tensor (or one layer of a stacked one) at a time, without Megatron or a process group.

A checkpoint is a directory: `.metadata` (a pickle: which chunk of which tensor lies in which file at which offset),
`__*.distcp` (the chunks, each a `torch.save` archive), `common.pt` and `metadata.json`. Memory is that of the largest tensor,
about twice while it is read, whatever the size of the model and however many ranks wrote it.
"""

import functools
import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, TensorWriteData, WriteItem, WriteItemType

from megatron_octo.artifacts import write_json
from megatron_octo.errors import ArtifactError

BACKEND = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}


class TorchDistReader:
    """Reads single tensors of a checkpoint, whatever layout wrote it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._metadata = _read_metadata(directory / ".metadata")
        entries = self._metadata.state_dict_metadata
        #: Tensors by key, the optimizer's included; other objects (`_extra_state`) left out.
        self.tensors = {key: entry for key, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}

    def read(self, key: str, layer: int | None = None) -> Tensor:
        """A whole tensor, or one layer [...] of a stacked one [L, ...].

        Raises:
            ArtifactError: a file is missing or cut off, or the chunks do not cover the tensor.
        """
        entry = self.tensors[key]
        shape = entry.size if layer is None else entry.size[1:]
        whole = torch.empty(shape, dtype=entry.properties.dtype)
        seen = 0
        for chunk in entry.chunks:
            offsets, sizes = chunk.offsets, chunk.sizes
            if layer is not None and not offsets[0] <= layer < offsets[0] + sizes[0]:
                continue
            part = self._read_chunk(MetadataIndex(key, offsets))
            if layer is not None:
                part, offsets, sizes = part[layer - offsets[0]], offsets[1:], sizes[1:]
            whole[tuple(slice(start, start + size) for start, size in zip(offsets, sizes, strict=True))] = part
            seen += part.numel()
        if seen != whole.numel():
            where = key if layer is None else f"{key}, layer {layer}"
            raise ArtifactError(f"{self._directory}: {seen:,} of {whole.numel():,} numbers of {where} are there")
        return whole

    def _read_chunk(self, index: MetadataIndex) -> Tensor:
        place = self._metadata.storage_data[index]
        file = self._directory / place.relative_path
        try:
            with file.open("rb") as stream:
                stream.seek(place.offset)
                data = stream.read(place.length)
        except OSError as error:
            raise ArtifactError(f"cannot read {file}: {error.strerror}; the checkpoint is incomplete") from error
        if len(data) != place.length:
            raise ArtifactError(f"{file} ends before {index.fqn}; the checkpoint is cut off")
        tensor: Tensor = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return tensor


_CHECKPOINT = "torch.distributed.checkpoint"
#: What a `.metadata` pickle may name. It is data from elsewhere, and a plain unpickler would run any code in it.
_ALLOWED = {
    *((f"{_CHECKPOINT}.metadata", name) for name in (
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    )),
    # Megatron keeps the plan it saved by, for the next save.
    *((f"{_CHECKPOINT}.planner", name) for name in ("SavePlan", "TensorWriteData", "WriteItem", "WriteItemType")),
    (f"{_CHECKPOINT}.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("collections", "OrderedDict"),
    # torch's own writer notes the directory it wrote to.
    ("pathlib", "PosixPath"),
}  # fmt: skip


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # dtypes are pickled as attributes of torch
        if (module, name) in _ALLOWED or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint needs")


def _read_metadata(file: Path) -> Metadata:
    try:
        with file.open("rb") as stream:
            metadata = _MetadataUnpickler(stream).load()
    except OSError as error:
        raise ArtifactError(f"{file.parent} is no torch_dist checkpoint: {file.name}: {error.strerror}") from error
    except (pickle.UnpicklingError, EOFError, AttributeError, ValueError) as error:
        raise ArtifactError(f"{file} cannot be read: {error}") from error
    if not isinstance(metadata, Metadata):
        raise ArtifactError(f"{file} holds {type(metadata).__name__}, not a checkpoint's metadata")
    return metadata


@dataclass(frozen=True)
class LazyTensor:
    """A tensor to write, made chunk by chunk when its turn comes: one chunk, or one per layer of a stacked tensor."""

    #: Of the whole, [L, ...] where stacked.
    shape: tuple[int, ...]
    dtype: torch.dtype
    #: None outside the layers; else the number of layers, and `make` is asked for each.
    num_layers: int | None
    make: Callable[[int | None], Tensor]

    def chunks(self) -> list[tuple[ChunkStorageMetadata, Callable[[], Tensor]]]:
        origin = [0] * len(self.shape)
        if self.num_layers is None:
            return [(ChunkStorageMetadata(torch.Size(origin), torch.Size(self.shape)), lambda: self.make(None))]
        size = torch.Size([1, *self.shape[1:]])
        return [
            (ChunkStorageMetadata(torch.Size([layer, *origin[1:]]), size), functools.partial(self._make_layer, layer))
            for layer in range(self.num_layers)
        ]

    def _make_layer(self, layer: int) -> Tensor:
        return self.make(layer)[None]


def write_torch_dist(directory: Path, tensors: Mapping[str, LazyTensor]) -> None:
    """Write a checkpoint of these tensors that `megatron.core.dist_checkpointing` loads at any layout."""
    directory.mkdir(parents=True, exist_ok=True)
    planner = _LazyPlanner(tensors)
    writer = _Writer(directory, single_file_per_rank=True, thread_count=1, per_thread_copy_ahead=1)
    writer.reset()
    writer.set_up_storage_writer(True)
    plans, metadata = planner.create_global_plan([writer.prepare_local_plan(planner.create_local_plan())])
    written = writer.write_data(writer.prepare_global_plan(plans)[0], planner)
    written.wait()
    writer.finish(metadata, [written.value()])
    torch.save({}, directory / "common.pt")
    # Written last: whoever looks for a complete checkpoint looks for this file.
    write_json(directory / "metadata.json", BACKEND)


class _Writer(FileSystemWriter):
    def storage_meta(self) -> None:
        """torch would note the path and a random id; without them the same weights give the same files."""


class _LazyPlanner(SavePlanner):
    """Tells torch's writer where everything goes, and makes each tensor only when the writer asks for it."""

    def __init__(self, tensors: Mapping[str, LazyTensor]) -> None:
        self._tensors = tensors
        self._make: dict[MetadataIndex, Callable[[], Tensor]] = {}

    def set_up_planner(self, *_: Any, **__: Any) -> None:
        pass

    def create_local_plan(self) -> SavePlan:
        items = []
        for key, tensor in self._tensors.items():
            for chunk, make in tensor.chunks():
                index = MetadataIndex(key, chunk.offsets)
                self._make[index] = make
                items.append(_write_item(index, chunk, tensor))
        return SavePlan(items)

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        entries: dict[str, Any] = {
            key: TensorStorageMetadata(
                TensorProperties(dtype=tensor.dtype), torch.Size(tensor.shape), [chunk for chunk, _ in tensor.chunks()]
            )
            for key, tensor in self._tensors.items()
        }
        return all_plans, Metadata(entries)

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        return self._make[write_item.index]()


def _write_item(index: MetadataIndex, chunk: ChunkStorageMetadata, tensor: LazyTensor) -> WriteItem:
    data = TensorWriteData(chunk, TensorProperties(dtype=tensor.dtype), torch.Size(tensor.shape))
    return WriteItem(index=index, type=WriteItemType.SHARD, tensor_data=data)
