"""Costs by arithmetic, against published totals and sums done by hand."""

import dataclasses

import pytest

from megatron_octo import recipes
from megatron_octo.training import estimate
from megatron_octo.training.blend import blend
from megatron_octo.training.config import ModelConfig

# Small enough to add up by hand: a layer has query 4x4, key and value 4x2 each, output 4x4, gate, up, down 3x4x8, norms 2x4.
SMALL = ModelConfig(
    num_layers=2,
    hidden_size=4,
    ffn_hidden_size=8,
    num_attention_heads=2,
    num_query_groups=1,
    kv_channels=2,
    vocab_size=10,
    max_position_embeddings=64,
)
SMALL_LAYER_MATRICES = 16 + 16 + 16 + 96


@pytest.mark.parametrize(
    ("model", "parameters"),
    # The totals Hugging Face shows for the three checkpoints.
    [("llama32_1b", 1_235_814_400), ("llama32_3b", 3_212_749_824), ("llama31_8b", 8_030_261_248)],
)
def test_parameters_of_the_published_models(model: str, parameters: int) -> None:
    assert estimate.parameters(recipes.load(f"{model}.stable").model) == parameters


@pytest.mark.parametrize(
    ("model", "seq_length", "gigaflops"),
    [
        ("llama32_1b", 8192, 9.03),
        ("llama32_3b", 8192, 23.50),
        # 14,451 tokens/s/GPU x 51.47 GFLOP = the 744 TFLOP/s NVIDIA publishes beside that rate.
        ("llama31_8b", 8192, 51.47),
        ("llama32_3b", 4096, 21.39),
        ("llama31_8b", 32768, 70.80),
    ],
)
def test_flops_per_token(model: str, seq_length: int, gigaflops: float) -> None:
    flops = estimate.flops_per_token(recipes.load(f"{model}.stable").model, seq_length)
    assert flops / 1e9 == pytest.approx(gigaflops, abs=0.005)


def test_parameters_and_flops_by_hand() -> None:
    assert estimate.parameters(SMALL) == 2 * (SMALL_LAYER_MATRICES + 8) + 2 * 40 + 4
    tied = dataclasses.replace(SMALL, share_embeddings_and_output_weights=True)
    assert estimate.parameters(tied) == estimate.parameters(SMALL) - 40
    assert estimate.flops_per_token(SMALL, 16) == 6 * (2 * SMALL_LAYER_MATRICES + 40) + 6 * 2 * 4 * 16


def test_biases_and_head_norms_are_counted() -> None:
    # Qwen2.5: a bias of 4 for queries, 2 for keys, 2 for values; Qwen3: one norm of 2 for all query heads, one for all key heads.
    biased, normed = (dataclasses.replace(SMALL, **{what: True}) for what in ("add_qkv_bias", "qk_layernorm"))
    assert estimate.parameters(biased) - estimate.parameters(SMALL) == 2 * 8
    assert estimate.parameters(normed) - estimate.parameters(SMALL) == 2 * 4
    assert estimate.flops_per_token(biased, 16) == estimate.flops_per_token(SMALL, 16)


@pytest.mark.parametrize(
    ("device", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989.4),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA GeForce RTX 4090", None),
        ("cpu", None),
    ],
)
def test_peak_flops(device: str, tera: float | None) -> None:
    assert estimate.peak_flops(device) == (None if tera is None else tera * 1e12)


def test_corpus_uses() -> None:
    sizes = {"web": 1_000, "qa": 100}
    web, qa, mine = estimate.corpus_uses(blend(web=0.5, qa=0.3, mine=0.2), 1_000, sizes.get)
    assert (web.tokens, web.epochs, web.distinct_tokens) == (500, 0.5, 500)
    assert (qa.tokens, qa.epochs, qa.distinct_tokens) == (300, 3, 100)
    assert (mine.tokens, mine.epochs, mine.distinct_tokens) == (200, None, 200)


@pytest.mark.parametrize(("vocab_size", "expected"), [(512, 2), (65_499, 2), (65_500, 4), (128_256, 4)])
def test_token_bytes(vocab_size: int, expected: int) -> None:
    assert estimate.token_bytes(vocab_size) == expected


def test_token_bytes_are_megatrons() -> None:
    indexed_dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    for vocab_size in (65_499, 65_500):
        dtype = indexed_dataset.DType.optimal_dtype(vocab_size)
        assert estimate.token_bytes(vocab_size) == indexed_dataset.DType.size(dtype)


def test_checkpoint_and_hours() -> None:
    assert estimate.checkpoint_bytes(recipes.load("llama32_1b.stable")) == 14 * 1_235_814_400
    assert estimate.gpu_hours(tokens=3_600_000, tokens_per_second_per_gpu=500) == 2
