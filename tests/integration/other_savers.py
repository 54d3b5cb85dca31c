"""Checkpoints as other settings of Megatron's, and other programs, leave them."""

import argparse
import io
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex

from megatron_octo.training.config import ModelConfig


def save_as(metadata: dict[str, Any]) -> None:
    """Have a run save with other formats of Megatron's, such as `non_homogeneous_layers` (`prelude` of ranks.py)."""
    from megatron_octo.training import checkpoint

    checkpoint.OPTIMIZER_FORMAT.update(metadata)


def forget(checkpoint: Path, is_forgotten: Callable[[str], bool]) -> None:
    """Take tensors out of what a checkpoint says it holds."""
    file = checkpoint / ".metadata"
    metadata = pickle.loads(file.read_bytes())
    for name in ("state_dict_metadata", "storage_data"):
        kept = {
            key: value for key, value in getattr(metadata, name).items() if not is_forgotten(getattr(key, "fqn", key))
        }
        setattr(metadata, name, kept)
    file.write_bytes(pickle.dumps(metadata))


def add_extra_state(checkpoint: Path) -> None:
    """What Transformer Engine keeps of each linear layer, by the keys Megatron gives it."""
    file = checkpoint / ".metadata"
    metadata = pickle.loads(file.read_bytes())
    with (checkpoint / "__0_9.distcp").open("wb") as stream:
        torch.save(io.BytesIO(), stream)
        length = stream.tell()
    for layer in range(4):
        key = f"decoder.layers.mlp.linear_fc1._extra_state/shard_{layer}_4"
        metadata.state_dict_metadata[key] = BytesStorageMetadata()
        metadata.storage_data[MetadataIndex(key)] = _StorageInfo("__0_9.distcp", 0, length)
    file.write_bytes(pickle.dumps(metadata))


def megatron_lm(checkpoint: Path, directory: Path, model: ModelConfig, **changes: Any) -> Path:
    """A save directory of Megatron-LM with a checkpoint of ours and the arguments it would have kept of such a model."""
    saved = directory / "iter_0000007"
    shutil.copytree(checkpoint, saved)
    (saved / "checksums.json").unlink()
    args = argparse.Namespace(**(_arguments(model) | changes))
    state = {"args": args, "checkpoint_version": 3.0, "iteration": 7, "opt_param_scheduler": {"max_lr": 1e-3}}
    torch.save(state, saved / "common.pt")
    (directory / "latest_checkpointed_iteration.txt").write_text("7")
    return directory


def _arguments(model: ModelConfig) -> dict[str, Any]:
    return {
        "num_layers": model.num_layers, "hidden_size": model.hidden_size, "ffn_hidden_size": model.ffn_hidden_size,
        "num_attention_heads": model.num_attention_heads, "group_query_attention": True,
        "num_query_groups": model.num_query_groups, "kv_channels": model.kv_channels, "vocab_size": model.vocab_size,
        "max_position_embeddings": model.max_position_embeddings, "rotary_base": int(model.rotary_base),
        "use_rope_scaling": model.rope_scaling_factor is not None, "rope_scaling_factor": model.rope_scaling_factor or 8.0,
        "norm_epsilon": model.layernorm_epsilon, "normalization": "RMSNorm", "swiglu": True,
        "position_embedding_type": "rope", "add_bias_linear": False, "rotary_percent": 1.0, "num_experts": None,
        "untie_embeddings_and_output_weights": not model.share_embeddings_and_output_weights,
        "add_qkv_bias": model.add_qkv_bias, "qk_layernorm": model.qk_layernorm,
        # not numbers or strings: the classes are Megatron's and torch's own
        "params_dtype": torch.bfloat16, "rank": 0, "save": Path("/checkpoints"), "data_path": ["1.0", "shard"],
    }  # fmt: skip
