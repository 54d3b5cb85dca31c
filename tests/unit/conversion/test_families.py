"""Which config.json is of which family: published ones are read as transformers reads them, the rest is refused by name."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from published_configs import LLAMA_31_8B, MISTRAL_7B_V01, MISTRAL_7B_V03, MODELS, QWEN3_06B, QWEN25_1B
from transformers import AutoConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from megatron_octo.conversion import families
from megatron_octo.errors import ArtifactError, ConfigError

CLASSES = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config, "mistral": MistralConfig}
MODEL = MODELS["Llama-3.1-8B"][1]


def write(directory: Path, config: dict[str, Any]) -> Path:
    file = directory / "config.json"
    file.write_text(json.dumps(config))
    return file


@pytest.mark.parametrize("name", MODELS)
def test_a_published_config_means_what_transformers_reads(tmp_path: Path, name: str) -> None:
    write(tmp_path, MODELS[name][0])
    family, config = families.load(tmp_path)
    judge = AutoConfig.from_pretrained(tmp_path)
    fields = {*family.defaults, *family.fixed} - ({"head_dim"} if family.name == "Qwen2" else set())
    assert {field: config[field] for field in fields} == {field: getattr(judge, field) for field in fields}


@pytest.mark.parametrize("model_type", CLASSES)
def test_a_field_left_out_has_the_default_of_its_class(tmp_path: Path, model_type: str) -> None:
    # Mistral's default window would be refused
    config = {"model_type": model_type} | ({"sliding_window": None} if model_type == "mistral" else {})
    write(tmp_path, config)
    family, found = families.load(tmp_path)
    judge = CLASSES[model_type]()
    fields = {*family.defaults, *family.fixed} - config.keys() - ({"head_dim"} if model_type == "qwen2" else set())
    assert {field: found[field] for field in fields} == {field: getattr(judge, field) for field in fields}
    assert MistralConfig().sliding_window == families.MISTRAL.defaults["sliding_window"]


@pytest.mark.parametrize(("model_type", "groups"), [("llama", 8), ("qwen2", 32), ("qwen3", 32), ("mistral", 8)])
def test_the_number_of_groups_left_out(tmp_path: Path, model_type: str, groups: int) -> None:
    """Llama's class takes that of the heads, the others' have a number of their own; null is that of the heads for all."""
    config = {"model_type": model_type, "num_attention_heads": 8, "hidden_size": 64, "sliding_window": None}
    write(tmp_path, config)
    assert (
        families.load(tmp_path)[1]["num_key_value_heads"] == groups == CLASSES[model_type](**config).num_key_value_heads
    )
    write(tmp_path, config | {"num_key_value_heads": None})
    assert families.load(tmp_path)[1]["num_key_value_heads"] == 8


@pytest.mark.parametrize(
    ("changes", "name"),
    [({}, "Llama"), ({"add_qkv_bias": True}, "Qwen2"), ({"qk_layernorm": True}, "Qwen3")],
)
def test_the_family_of_a_model(changes: dict[str, bool], name: str) -> None:
    assert families.of_model(dataclasses.replace(MODEL, **changes)).name == name


def test_a_model_of_no_family_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="add_qkv_bias True with qk_layernorm True is no Hugging Face model; allowed: neither"
    ):
        families.of_model(dataclasses.replace(MODEL, add_qkv_bias=True, qk_layernorm=True))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LLAMA_31_8B | {"model_type": "gemma"}, "model_type 'gemma' is not supported; allowed: llama, qwen2, qwen3, mistral"),
        ({}, "model_type 'None' is not supported"),
        (LLAMA_31_8B | {"attention_bias": True}, "attention_bias is True; a Llama model is trained with attention_bias False"),
        (LLAMA_31_8B | {"mlp_bias": True}, "mlp_bias is True"),
        (LLAMA_31_8B | {"hidden_act": "gelu"}, "hidden_act is gelu; a Llama model is trained with hidden_act silu only"),
        (LLAMA_31_8B | {"quantization_config": {"bits": 4}}, "quantization_config is set; .* the model they were quantised from"),
        (QWEN3_06B | {"attention_bias": True}, "attention_bias is True; a Qwen3 model"),
        (QWEN25_1B | {"use_sliding_window": True}, "use_sliding_window is True; a Qwen2 model"),
        (QWEN3_06B | {"layer_types": ["full_attention", "sliding_attention"] * 14}, "layer_types holds sliding_attention"),
        (MISTRAL_7B_V01, "sliding_window is 4096 of 32768 positions; .* longer than 4096 tokens .* set sliding_window to null"),
        ({"model_type": "mistral"}, "sliding_window is 4096 of 131072 positions"),
    ],
)  # fmt: skip
def test_what_megatron_cannot_train_is_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    file = write(tmp_path, config)
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(file))}: {message}"):
        families.load(tmp_path)


@pytest.mark.parametrize("window", [None, 32768, 40000])
def test_a_window_as_long_as_the_context_is_none(tmp_path: Path, window: int | None) -> None:
    write(tmp_path, MISTRAL_7B_V03 | {"sliding_window": window})
    assert families.load(tmp_path)[0].name == "Mistral"


@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_a_directory_without_a_readable_config_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"config\.json.*; name a Hugging Face model directory"):
        families.load(tmp_path)
