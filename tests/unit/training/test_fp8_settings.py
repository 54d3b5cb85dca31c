"""Fp8 in Megatron's words, which Megatron's own config accepts."""

import pytest
import torch

from megatron_octo.errors import ConfigError
from megatron_octo.training import megatron, spec
from megatron_octo.training.config import ModelConfig
from megatron_octo.training.parallelism import Parallelism
from megatron_octo.training.precision import Fp8, Fp8Format, Fp8Recipe, Precision, why_no_fp8

MODEL = ModelConfig(
    num_layers=4, hidden_size=32, ffn_hidden_size=64, num_attention_heads=2, num_query_groups=1, kv_channels=16, vocab_size=64,
    max_position_embeddings=32,
)  # fmt: skip


@pytest.mark.parametrize(
    ("fp8", "expected"),
    [
        (Fp8(), {"fp8": "hybrid", "fp8_recipe": "tensorwise"}),
        (Fp8(recipe=Fp8Recipe.BLOCKWISE, format=Fp8Format.E4M3), {"fp8": "e4m3", "fp8_recipe": "blockwise"}),
        (
            Fp8(recipe=Fp8Recipe.DELAYED),
            {"fp8": "hybrid", "fp8_recipe": "delayed", "fp8_amax_history_len": 1024, "fp8_amax_compute_algo": "max"},
        ),
        (
            Fp8(num_layers_at_end_in_bf16=2),
            {
                "fp8": "hybrid", "fp8_recipe": "tensorwise", "first_last_layers_bf16": True, "num_layers_at_start_in_bf16": 0,
                "num_layers_at_end_in_bf16": 2,
            },
        ),
    ],
)  # fmt: skip
def test_fp8_in_megatrons_words(fp8: Fp8, expected: dict[str, object]) -> None:
    settings = megatron.fp8_settings(fp8)
    assert settings == expected
    config = megatron.transformer_config(MODEL, Parallelism(), Precision.FP8, **settings)
    assert {name: getattr(config, name) for name in expected} == expected


def test_megatron_knows_which_layers_stay_in_bf16() -> None:
    from megatron.core.fp8_utils import is_first_last_bf16_layer

    fp8 = Fp8(num_layers_at_start_in_bf16=1, num_layers_at_end_in_bf16=2)
    config = megatron.transformer_config(MODEL, Parallelism(), Precision.FP8, **megatron.fp8_settings(fp8))
    assert [is_first_last_bf16_layer(config, layer) for layer in range(4)] == [True, False, True, True]


@pytest.mark.parametrize(
    ("recipe", "capability", "why"),
    [
        (Fp8Recipe.TENSORWISE, (8, 0), "fp8.recipe tensorwise takes a GPU of compute capability 8.9, this one has 8.0"),
        (Fp8Recipe.TENSORWISE, (8, 9), None),
        (Fp8Recipe.BLOCKWISE, (8, 9), "fp8.recipe blockwise takes a GPU of compute capability 9.0, this one has 8.9"),
        (Fp8Recipe.BLOCKWISE, (9, 0), None),
        (Fp8Recipe.DELAYED, (10, 0), None),
    ],
)
def test_which_gpus_multiply_fp8(recipe: Fp8Recipe, capability: tuple[int, int], why: str | None) -> None:
    assert why_no_fp8(recipe, capability) == why


def test_an_old_transformer_engine_is_refused_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "uses_transformer_engine", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(megatron, "get_te_version", lambda: "2.2.1")
    monkeypatch.setattr(megatron, "is_te_min_version", lambda least: least <= "2.2.1")
    megatron.require_precision(Precision.FP8, Fp8(recipe=Fp8Recipe.DELAYED))
    megatron.require_precision(Precision.FP8, Fp8(recipe=Fp8Recipe.TENSORWISE))
    with pytest.raises(
        ConfigError, match=r"blockwise takes Transformer Engine 2\.3\.0 or newer, this process has 2\.2\.1"
    ):
        megatron.require_precision(Precision.FP8, Fp8(recipe=Fp8Recipe.BLOCKWISE))


@pytest.mark.parametrize(("shown", "local_rank", "number"), [(8, "3", 3), (1, "3", 0)])
def test_a_rank_takes_its_gpu_or_the_only_one_it_is_shown(
    monkeypatch: pytest.MonkeyPatch, shown: int, local_rank: str, number: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: shown)
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert megatron.device() == torch.device("cuda", number)
