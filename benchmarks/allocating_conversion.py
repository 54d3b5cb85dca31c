"""What converters do, as the peer of ours: allocate the model, load the checkpoint into it, reshape, save. Llama, bf16.

    python benchmarks/allocating_conversion.py to-hf|from-hf MODEL_JSON SOURCE OUT --max-shard-bytes N

Only what the task needs: torch's checkpoint code and the safetensors package, no Megatron, no transformers, no process group; both
ends in fsync. Prints what it took without its imports, as JSON.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from synthetic_checkpoints import FC1, LAYERS, shapes
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from megatron_octo import config
from megatron_octo.training.config import ModelConfig

ATTENTION, MLP = LAYERS + "self_attention.", LAYERS + "mlp."
#: Megatron tensors that are one of Hugging Face's in every layer.
SAME = {
    ATTENTION + "linear_qkv.layer_norm_weight": "input_layernorm",
    ATTENTION + "linear_proj.weight": "self_attn.o_proj",
    MLP + "linear_fc1.layer_norm_weight": "post_attention_layernorm",
    MLP + "linear_fc2.weight": "mlp.down_proj",
}
OUTSIDE = {
    "embedding.word_embeddings.weight": "model.embed_tokens.weight",
    "decoder.final_layernorm.weight": "model.norm.weight",
    "output_layer.weight": "lm_head.weight",
}


def main() -> None:
    options = _options()
    before = time.process_time()
    started = time.perf_counter()
    model = config.load(ModelConfig, options.model)
    options.out.mkdir(parents=True)
    if options.direction == "to-hf":
        to_hf(model, options.source, options.out, options.max_shard_bytes)
    else:
        from_hf(model, options.source, options.out)
    print(json.dumps({"wall": time.perf_counter() - started, "cpu": time.process_time() - before}))


def to_hf(model: ModelConfig, source: Path, out: Path, max_shard_bytes: int) -> None:
    state = {key: torch.empty(shape, dtype=torch.bfloat16) for key, shape in shapes(model).items()}
    load(state, checkpoint_id=source, no_dist=True)
    groups: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, tensor in _split(model, state):
        if groups[-1] and filled + tensor.nbytes > max_shard_bytes:
            groups.append({})
            filled = 0
        groups[-1][name] = tensor
        filled += tensor.nbytes
    for number, group in enumerate(groups, start=1):
        file = out / f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        save_file(group, file, metadata={"format": "pt"})
        _fsync(file)
    _fsync(out)


def from_hf(model: ModelConfig, source: Path, out: Path) -> None:
    tensors: dict[str, Tensor] = {}
    for file in source.glob("*.safetensors"):
        tensors |= load_file(file)
    # this writer ends in fsync
    save(_joined(model, tensors), storage_writer=FileSystemWriter(out), no_dist=True)
    _fsync(out)


def _split(model: ModelConfig, state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for key, name in OUTSIDE.items():
        if key in state:
            yield name, state[key]
    for layer in range(model.num_layers):
        prefix = f"model.layers.{layer}."
        for key, name in SAME.items():
            yield f"{prefix}{name}.weight", state[key][layer]
        grouped = _by_group(model, state[ATTENTION + "linear_qkv.weight"][layer])
        queries = grouped.shape[1] - 2
        for letter, part in zip("qkv", torch.split(grouped, [queries, 1, 1], dim=1), strict=True):
            yield f"{prefix}self_attn.{letter}_proj.weight", part.reshape(-1, model.hidden_size)
        for half, part in zip(("gate", "up"), state[FC1][layer].chunk(2), strict=True):
            yield f"{prefix}mlp.{half}_proj.weight", part


def _by_group(model: ModelConfig, weight: Tensor) -> Tensor:
    """Rows of a layer's QKV as [groups, query heads + key + value, size of a head, hidden]."""
    return weight.view(model.num_query_groups, -1, model.kv_channels, model.hidden_size)


def _joined(model: ModelConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    layers = [f"model.layers.{layer}." for layer in range(model.num_layers)]

    def qkv(prefix: str) -> Tensor:
        parts = [_by_group(model, tensors[f"{prefix}self_attn.{letter}_proj.weight"]) for letter in "qkv"]
        return torch.cat(parts, dim=1).view(-1, model.hidden_size)

    def gate_up(prefix: str) -> Tensor:
        return torch.cat([tensors[f"{prefix}mlp.{half}_proj.weight"] for half in ("gate", "up")])

    return {
        **{key: tensors[name] for key, name in OUTSIDE.items() if name in tensors},
        **{key: torch.stack([tensors[f"{prefix}{name}.weight"] for prefix in layers]) for key, name in SAME.items()},
        ATTENTION + "linear_qkv.weight": torch.stack([qkv(prefix) for prefix in layers]),
        FC1: torch.stack([gate_up(prefix) for prefix in layers]),
    }


def _fsync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    os.fsync(opened)
    os.close(opened)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Allocate, load, reshape, save.")
    parser.add_argument("direction", choices=["to-hf", "from-hf"])
    parser.add_argument("model", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--max-shard-bytes", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
