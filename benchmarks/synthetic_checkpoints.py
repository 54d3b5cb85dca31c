"""Megatron checkpoints of any Llama's shape with random bf16 weights, written and read by torch's own code; nothing of our
conversion is used here.

A checkpoint is as tensor-parallel ranks of Megatron write it: layers stacked as [L, ...], a chunk for each layer and rank, a file
for each rank. Memory is that of the largest tensor.

    STAGE/model.json  STAGE/checkpoints/latest  STAGE/checkpoints/iter_0000001/
"""

import hashlib
import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.state_dict_loader import load

from megatron_octo.artifacts import write_json
from megatron_octo.config import to_dict
from megatron_octo.training.config import ModelConfig

LAYERS = "decoder.layers."
FC1 = LAYERS + "mlp.linear_fc1.weight"
#: The axis that tensor-parallel ranks share, layers not counted; the norms are the first rank's.
CUT_AXIS = {
    "embedding.word_embeddings.weight": 0,
    "output_layer.weight": 0,
    LAYERS + "self_attention.linear_qkv.weight": 0,
    LAYERS + "self_attention.linear_proj.weight": 1,
    FC1: 0,
    LAYERS + "mlp.linear_fc2.weight": 1,
}
#: As Megatron-Core 0.16 writes it.
BACKEND = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}
#: A prime, so that no two rows of a tensor begin alike.
BLOCK_NUMBERS = 16_777_213
CHECKPOINT = "iter_0000001"


def shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The tensors of a Llama in Megatron's words."""
    layers, hidden, head = model.num_layers, model.hidden_size, model.kv_channels
    attention, ffn = model.num_attention_heads * head, model.ffn_hidden_size
    tied = model.share_embeddings_and_output_weights
    return {
        "embedding.word_embeddings.weight": (model.vocab_size, hidden),
        LAYERS + "self_attention.linear_qkv.layer_norm_weight": (layers, hidden),
        LAYERS + "self_attention.linear_qkv.weight": (layers, attention + 2 * model.num_query_groups * head, hidden),
        LAYERS + "self_attention.linear_proj.weight": (layers, hidden, attention),
        LAYERS + "mlp.linear_fc1.layer_norm_weight": (layers, hidden),
        FC1: (layers, 2 * ffn, hidden),
        LAYERS + "mlp.linear_fc2.weight": (layers, hidden, ffn),
        "decoder.final_layernorm.weight": (hidden,),
        **({} if tied else {"output_layer.weight": (model.vocab_size, hidden)}),
    }


def num_bytes(model: ModelConfig) -> int:
    return 2 * sum(math.prod(shape) for shape in shapes(model).values())


def write(stage: Path, model: ModelConfig, *, tensor_parallel: int) -> Path:
    """A checkpoint with the files by which a stage is known; returns its directory."""
    checkpoint = stage / "checkpoints" / CHECKPOINT
    checkpoint.mkdir(parents=True)
    planner = _Planner(model, tensor_parallel)
    writer = FileSystemWriter(checkpoint, per_thread_copy_ahead=1)
    writer.reset()
    writer.set_up_storage_writer(is_coordinator=True)
    plans, metadata = planner.create_global_plan([planner.rank_plan(rank) for rank in range(tensor_parallel)])
    written = [writer.write_data(plan, planner).value() for plan in writer.prepare_global_plan(plans)]
    writer.finish(metadata, written)
    torch.save({}, checkpoint / "common.pt")
    write_json(checkpoint / "metadata.json", BACKEND)
    write_json(stage / "model.json", to_dict(model))
    (checkpoint.parent / "latest").write_text(CHECKPOINT + "\n")
    return checkpoint


def megatron_hashes(checkpoint: Path, model: ModelConfig) -> dict[str, str]:
    """sha256 of every tensor, one in memory at a time."""
    found = {}
    for key, shape in shapes(model).items():
        state = {key: torch.empty(shape, dtype=torch.bfloat16)}
        load(state, checkpoint_id=checkpoint, no_dist=True)
        found[key] = hashlib.sha256(state[key].view(torch.uint8).numpy().data).hexdigest()
    return found


def hf_hashes(directory: Path) -> dict[str, str]:
    """sha256 of every tensor of a directory's safetensors files, after its dtype and shape."""
    return {
        name: digest for file in sorted(directory.glob("*.safetensors")) for name, digest in _safetensors_hashes(file)
    }


def _safetensors_hashes(file: Path) -> Iterator[tuple[str, str]]:
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        data = stream.tell()
        header.pop("__metadata__", None)
        for name, entry in header.items():
            first, end = entry["data_offsets"]
            digest = hashlib.sha256()
            stream.seek(data + first)
            for left in range(end - first, 0, -(2**22)):
                digest.update(stream.read(min(left, 2**22)))
            yield name, f"{entry['dtype']} {entry['shape']} {digest.hexdigest()}"


class _Planner(DefaultSavePlanner):
    """Tells torch's writer what every rank has, and makes a chunk when the writer asks for it."""

    def __init__(self, model: ModelConfig, tensor_parallel: int) -> None:
        super().__init__()
        self._shapes = shapes(model)
        self._tensor_parallel = tensor_parallel
        self._sizes: dict[MetadataIndex, torch.Size] = {}
        generator = torch.Generator().manual_seed(1)
        self._block = torch.empty(BLOCK_NUMBERS, dtype=torch.bfloat16).normal_(std=0.02, generator=generator)

    def rank_plan(self, rank: int) -> SavePlan:
        items = []
        for key, shape in self._shapes.items():
            for chunk in _chunks(key, shape, rank=rank, ranks=self._tensor_parallel):
                index = MetadataIndex(key, chunk.offsets)
                self._sizes[index] = chunk.sizes
                data = TensorWriteData(chunk, TensorProperties(dtype=torch.bfloat16), torch.Size(shape))
                items.append(WriteItem(index=index, type=WriteItemType.SHARD, tensor_data=data))
        return SavePlan(items)

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        entries: dict[str, Any] = {
            key: TensorStorageMetadata(TensorProperties(dtype=torch.bfloat16), torch.Size(shape), [])
            for key, shape in self._shapes.items()
        }
        for index, sizes in self._sizes.items():
            assert index.offset is not None
            entries[index.fqn].chunks.append(ChunkStorageMetadata(index.offset, sizes))
        return all_plans, Metadata(entries)

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        sizes = self._sizes[write_item.index]
        start = zlib.crc32(repr(write_item.index).encode()) % BLOCK_NUMBERS
        block = self._block.roll(start)
        numbers = torch.empty(sizes.numel(), dtype=torch.bfloat16)
        for part in torch.split(numbers, BLOCK_NUMBERS):
            part.copy_(block[: len(part)])
        return numbers.view(sizes)


def _chunks(key: str, shape: tuple[int, ...], *, rank: int, ranks: int) -> Iterator[ChunkStorageMetadata]:
    """The part of a tensor that one rank has: a chunk for each layer, and for gate and up apart."""
    stacked = key.startswith(LAYERS)
    for layer in range(shape[0]) if stacked else [None]:
        offsets, sizes = [0] * len(shape), list(shape)
        if layer is not None:
            offsets[0], sizes[0] = layer, 1
        if key not in CUT_AXIS:
            if rank == 0:
                yield ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))
            continue
        axis = CUT_AXIS[key] + stacked
        halves = 2 if key == FC1 else 1
        sizes[axis] //= halves * ranks
        for half in range(halves):
            offsets[axis] = (half * ranks + rank) * sizes[axis]
            yield ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))
