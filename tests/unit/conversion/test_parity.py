"""Parity of logits that can fail, and says before it begins that memory will not suffice."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from megatron_octo.conversion import parity
from megatron_octo.errors import ArtifactError, ResourceError
from megatron_octo.training.config import ModelConfig

TINY = ModelConfig(
    num_layers=1, hidden_size=16, ffn_hidden_size=24, num_attention_heads=2, num_query_groups=2, kv_channels=8, vocab_size=32,
    max_position_embeddings=64,
)  # fmt: skip
#: More than any machine has.
HUGE = dataclasses.replace(TINY, num_layers=100, hidden_size=1 << 17, ffn_hidden_size=1 << 17)


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        num_hidden_layers=1, hidden_size=16, intermediate_size=24, num_attention_heads=2, vocab_size=32,
        max_position_embeddings=64,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_parity_accepts_and_refuses(tmp_path: Path, tiny_model: Path) -> None:
    token_ids = np.arange(12).reshape(2, 6)
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(tiny_model)(torch.from_numpy(token_ids)).logits.numpy()
    np.savez(tmp_path / "same.npz", token_ids=token_ids, logits=logits)
    assert parity.compare(tmp_path / "same.npz", tiny_model, tolerance=1e-6) <= 1e-6
    logits[1, 4, 7] += 0.5
    np.savez(tmp_path / "other.npz", token_ids=token_ids, logits=logits)
    with pytest.raises(ArtifactError, match=r"differ by up to 0\.5 .* sequence 1, position 4, token 7"):
        parity.compare(tmp_path / "other.npz", tiny_model, tolerance=1e-5)


def test_parity_refuses_nan(tmp_path: Path, tiny_model: Path) -> None:
    weights = load_file(tiny_model / "model.safetensors")
    weights["model.norm.weight"].fill_(float("nan"))
    save_file(weights, tiny_model / "model.safetensors", metadata={"format": "pt"})
    np.savez(tmp_path / "l.npz", token_ids=np.zeros((1, 2), np.int64), logits=np.zeros((1, 2, 32), np.float32))
    with pytest.raises(ArtifactError, match="differ by up to nan"):
        parity.compare(tmp_path / "l.npz", tiny_model, tolerance=1e-5)


def test_a_model_beyond_the_memory_is_refused(tmp_path: Path) -> None:
    parity.require_memory(TINY)
    with pytest.raises(ResourceError, match=r"fp32, 36\.1 TB of memory, and .* are free"):
        parity.megatron_logits(HUGE, tmp_path, tmp_path / "l.npz")
