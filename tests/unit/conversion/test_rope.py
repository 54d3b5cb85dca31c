"""RoPE in both spellings, read as transformers reads it and written so that every version reads it."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from published_configs import LLAMA_3_SCALING, MODELS
from transformers import LlamaConfig

from megatron_octo.conversion import rope
from megatron_octo.conversion.rope import Rope
from megatron_octo.errors import ConfigError

FILE = Path("config.json")
MODEL = MODELS["Llama-3.2-1B"][1]
OLDER_KEY = {"type" if key == "rope_type" else key: value for key, value in LLAMA_3_SCALING.items()}


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({}, Rope(10_000.0, None)),
        ({"rope_theta": 1000000}, Rope(1_000_000.0, None)),
        ({"rope_theta": 5e5, "rope_scaling": None}, Rope(500_000.0, None)),
        ({"rope_theta": 5e5, "rope_scaling": LLAMA_3_SCALING}, Rope(500_000.0, 32.0)),
        ({"rope_theta": 5e5, "rope_scaling": OLDER_KEY}, Rope(500_000.0, 32.0)),
        ({"rope_parameters": LLAMA_3_SCALING | {"rope_theta": 5e5}}, Rope(500_000.0, 32.0)),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, Rope(1_000_000.0, None)),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "rope_theta": 1e4}, Rope(1_000_000.0, None)),
        ({"rope_parameters": {"rope_type": "default"}, "rope_theta": 3e4}, Rope(30_000.0, None)),
        ({"rope_scaling": {"rope_type": "default"}, "rope_theta": 3e4}, Rope(30_000.0, None)),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "rope_scaling": LLAMA_3_SCALING, "rope_theta": 5e5}, Rope(500_000.0, 32.0)),
        ({"partial_rotary_factor": 1.0}, Rope(10_000.0, None)),
    ],
)  # fmt: skip
def test_both_spellings_are_read(config: dict[str, Any], found: Rope) -> None:
    assert rope.read(config, FILE) == found
    judge = LlamaConfig(**{key: dict(value) if isinstance(value, dict) else value for key, value in config.items()})
    assert judge.rope_parameters["rope_theta"] == found.theta
    assert judge.rope_parameters.get("factor") == found.factor


@pytest.mark.parametrize("factor", [None, 32.0])
def test_what_is_written_is_what_transformers_5_would_write(factor: float | None) -> None:
    spelled = rope.spell(dataclasses.replace(MODEL, rope_scaling_factor=factor))
    assert spelled == {"rope_theta": 500_000.0, "rope_scaling": None if factor is None else LLAMA_3_SCALING}
    plain = {"rope_type": "default", "rope_theta": 500_000.0}
    scaled = LLAMA_3_SCALING | {"rope_theta": 500_000.0}
    assert LlamaConfig(**spelled).rope_parameters == (plain if factor is None else scaled)


@pytest.mark.parametrize(
    "config",
    [
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}},
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        {"rope_scaling": LLAMA_3_SCALING | {"low_freq_factor": 2.0}},
        {"rope_scaling": LLAMA_3_SCALING, "original_max_position_embeddings": 4096},
        {"rope_scaling": LLAMA_3_SCALING | {"partial_rotary_factor": 0.5}},
        {"rope_scaling": {"rope_type": "llama3", **rope.MEGATRON_SCALING}},
        {"partial_rotary_factor": 0.5},
        {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e6}}},
    ],
)
def test_what_megatron_cannot_train_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigError, match=r"config\.json: RoPE scaling .* cannot be trained; Megatron-Core knows none, or llama3 with"
    ):
        rope.read(config, FILE)
