"""Parity of logits that can fail, and says before it begins that memory will not suffice."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from megatron_octo.conversion import hf_logits, parity
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


def write(file: Path, logits: np.ndarray) -> Path:
    np.savez(file, token_ids=np.zeros(logits.shape[:2], np.int64), logits=logits)
    return file


def test_transformers_answers_in_fp32(tmp_path: Path, tiny_model: Path) -> None:
    token_ids = np.arange(12).reshape(2, 6)
    np.savez(tmp_path / "other.npz", token_ids=token_ids)
    hf_logits.compute(tiny_model, tmp_path / "other.npz", tmp_path / "found.npz")
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(tiny_model)(torch.from_numpy(token_ids)).logits.numpy()
    assert np.array_equal(np.load(tmp_path / "found.npz")["logits"], expected)


def test_the_place_of_the_largest_difference_is_named(tmp_path: Path) -> None:
    logits = np.random.default_rng(0).standard_normal((2, 6, 32)).astype(np.float32)
    same = write(tmp_path / "same.npz", logits)
    assert parity.compare(same, same, tolerance=1e-6) == 0
    logits[1, 4, 7] += 0.5
    with pytest.raises(ArtifactError, match=r"differ by up to 0\.5 .* sequence 1, position 4, token 7"):
        parity.compare(same, write(tmp_path / "other.npz", logits), tolerance=1e-5)


def test_nan_is_refused(tmp_path: Path) -> None:
    zeros = write(tmp_path / "zeros.npz", np.zeros((1, 2, 32), np.float32))
    broken = write(tmp_path / "nan.npz", np.full((1, 2, 32), np.nan, np.float32))
    with pytest.raises(ArtifactError, match="differ by up to nan"):
        parity.compare(zeros, broken, tolerance=1e-5)


def test_a_model_beyond_the_memory_is_refused(tmp_path: Path) -> None:
    parity.require_memory(TINY)
    with pytest.raises(ResourceError, match=r"fp32, 36\.1 TB of memory, and .* are free"):
        parity.largest_difference(HUGE, checkpoint=tmp_path, hf_directory=tmp_path, tolerance=1e-5)
