"""config.json and the files around it: published models read, random ones written, references carried over."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from published_configs import (
    LLAMA_2_7B,
    LLAMA_3_SCALING,
    LLAMA_31_8B,
    LLAMA_32_1B,
    MISTRAL_7B_V03,
    MODELS,
    QWEN3_06B,
)
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from megatron_octo.conversion import hf_config, rope
from megatron_octo.conversion.dtypes import BF16, FP32
from megatron_octo.conversion.hf_config import Surroundings
from megatron_octo.errors import ArtifactError, ConfigError
from megatron_octo.training.config import ModelConfig

SMALL = ModelConfig(
    # more layers than Qwen's default of those with full attention
    num_layers=30, hidden_size=16, ffn_hidden_size=24, num_attention_heads=4, num_query_groups=2, kv_channels=8,
    vocab_size=32, max_position_embeddings=16384, layernorm_epsilon=2e-5,
)  # fmt: skip
FAMILIES: dict[str, dict[str, bool]] = {"llama": {}, "qwen2": {"add_qkv_bias": True}, "qwen3": {"qk_layernorm": True}}
TOKENIZER = {
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []},
    "added_tokens": [{"id": 2, "content": "<end>"}],
}


def small(family: str = "llama", **changes: Any) -> ModelConfig:
    return dataclasses.replace(SMALL, **FAMILIES[family], **changes)


def directory(place: Path, **files: Any) -> Path:
    """With JSON files by name."""
    place.mkdir(exist_ok=True)
    for name, content in files.items():
        (place / f"{name}.json").write_text(json.dumps(content))
    return place


def around(model: ModelConfig, reference: Path | None = None, tokenizer: Path | None = None) -> Surroundings:
    return hf_config.surroundings(model, dtype=BF16, reference=reference, tokenizer=tokenizer)


def write(place: Path, found: Surroundings) -> Path:
    place.mkdir(exist_ok=True)
    for name, content in found.files.items():
        (place / name).write_bytes(content)
    return place


def config_of(found: Surroundings) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(found.files["config.json"])
    return config


@pytest.mark.parametrize("name", MODELS)
def test_published_models_are_read(tmp_path: Path, name: str) -> None:
    published, model = MODELS[name]
    assert hf_config.read_config(directory(tmp_path, config=published)) == model


@pytest.mark.parametrize(
    ("field", "value"),
    [("hidden_size", "wide"), ("num_attention_heads", 0), ("num_hidden_layers", 2.5), ("tie_word_embeddings", None)],
)
def test_a_value_that_cannot_be_is_named(tmp_path: Path, field: str, value: Any) -> None:
    named = "share_embeddings_and_output_weights" if field == "tie_word_embeddings" else field
    with pytest.raises(ConfigError, match=rf"config\.json: .*{named}.*{value}"):
        hf_config.read_config(directory(tmp_path, config=LLAMA_31_8B | {field: value}))


@pytest.mark.parametrize("name", MODELS)
def test_the_config_of_a_reference_is_carried_over(tmp_path: Path, name: str) -> None:
    published, model = MODELS[name]
    reference = directory(tmp_path / "reference", config=published, generation_config={"eos_token_id": [2, 3]})
    found = around(model, reference)
    assert config_of(found) == published | {"torch_dtype": "bfloat16"}
    assert found.copies == {"generation_config.json": reference / "generation_config.json"}
    assert found.family.model_type == published["model_type"]
    assert found.notes == ("no tokenizer is written, for there is none; --tokenizer DIR names one",)


@pytest.mark.parametrize("spelled", ["dtype", "torch_dtype"])
def test_the_dtype_is_that_of_the_weights_in_the_spelling_that_is_there(tmp_path: Path, spelled: str) -> None:
    config = {key: value for key, value in QWEN3_06B.items() if key != "torch_dtype"} | {spelled: "bfloat16"}
    reference = directory(tmp_path, config=config)
    found = hf_config.surroundings(MODELS["Qwen3-0.6B"][1], dtype=FP32, reference=reference, tokenizer=None)
    assert config_of(found) == config | {spelled: "float32"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("factor", [None, 32.0])
def test_a_config_made_from_the_model_round_trip(tmp_path: Path, family: str, tied: bool, factor: float | None) -> None:
    model = small(family, share_embeddings_and_output_weights=tied, rope_scaling_factor=factor)
    found = around(model, tokenizer=directory(tmp_path, tokenizer=TOKENIZER, tokenizer_config={"eos_token": "<end>"}))
    written = write(tmp_path / "written", found)
    assert hf_config.read_config(written) == model
    assert found.notes == ()
    judge = AutoConfig.from_pretrained(written)
    assert (judge.model_type, judge.dtype, judge.bos_token_id, judge.eos_token_id) == (family, torch.bfloat16, None, 2)
    scaled = LLAMA_3_SCALING | {"rope_theta": 500_000.0}
    assert judge.rope_parameters == (scaled if factor else {"rope_type": "default", "rope_theta": 500_000.0})
    assert (judge.tie_word_embeddings, judge.architectures) == (tied, [found.family.architecture])
    assert GenerationConfig.from_pretrained(written).eos_token_id == 2


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_every_layer_attends_to_the_full_context(tmp_path: Path, family: str) -> None:
    judge = AutoConfig.from_pretrained(write(tmp_path, around(small(family))))
    assert (judge.use_sliding_window, judge.sliding_window) == (False, None)
    assert judge.layer_types == ["full_attention"] * 30


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_builds_the_model_a_made_config_describes(tmp_path: Path, family: str) -> None:
    config = AutoConfig.from_pretrained(write(tmp_path, around(small(family, num_layers=1))))
    layer = AutoModelForCausalLM.from_config(config).model.layers[0].self_attn
    assert tuple(layer.k_proj.weight.shape) == (2 * 8, 16)
    assert (layer.k_proj.bias is not None, hasattr(layer, "k_norm")) == (family == "qwen2", family == "qwen3")


def test_a_longer_context_comes_from_the_model(tmp_path: Path) -> None:
    """What mid-training may change; everything else of the reference stays."""
    model = dataclasses.replace(MODELS["Llama-2-7b"][1], rotary_base=5e5, max_position_embeddings=32768)
    reference = directory(tmp_path / "reference", config=LLAMA_2_7B)
    found = around(model, reference)
    assert config_of(found) == LLAMA_2_7B | {
        "rope_theta": 5e5, "rope_scaling": None, "max_position_embeddings": 32768, "torch_dtype": "bfloat16",
    }  # fmt: skip
    assert hf_config.read_config(write(tmp_path / "written", found)) == model
    assert [note.partition("except: ")[2] for note in found.notes[:2]] == [
        "max_position_embeddings is 32768, the reference's 4096", "rotary_base is 500000.0, the reference's 10000.0",
    ]  # fmt: skip


def test_a_changed_rope_leaves_no_second_spelling(tmp_path: Path) -> None:
    config = {key: value for key, value in LLAMA_32_1B.items() if key not in ("rope_theta", "rope_scaling")}
    newer = LLAMA_3_SCALING | {"rope_theta": 5e5}
    reference = directory(tmp_path / "reference", config=config | {"rope_parameters": newer})
    model = dataclasses.replace(MODELS["Llama-3.2-1B"][1], rotary_base=1e6)
    written = config_of(around(model, reference))
    assert "rope_parameters" not in written
    assert (written["rope_theta"], written["rope_scaling"]) == (1e6, LLAMA_3_SCALING)


@pytest.mark.parametrize(
    ("spelled", "noted"),
    [
        ({"rope_parameters": LLAMA_3_SCALING | {"rope_theta": 5e5}}, True),
        # the scaling is lost, the theta is not
        ({"rope_parameters": LLAMA_3_SCALING | {"rope_theta": 5e5}, "rope_theta": 5e5}, True),
        ({"rope_theta": 5e5, "rope_scaling": LLAMA_3_SCALING}, False),
    ],
)
def test_a_spelling_that_transformers_4_passes_over_stays_and_is_said(
    tmp_path: Path, spelled: dict[str, Any], noted: bool
) -> None:
    config = {name: value for name, value in LLAMA_32_1B.items() if name not in rope.FIELDS} | spelled
    found = around(MODELS["Llama-3.2-1B"][1], directory(tmp_path, config=config, tokenizer=TOKENIZER))
    assert config_of(found) == config
    notes = [note for note in found.notes if "transformers 4 reads a rope_theta of 10000 from it" in note]
    assert len(notes) == noted


def test_a_window_that_no_longer_covers_the_context_is_refused(tmp_path: Path) -> None:
    reference = directory(tmp_path, config=MISTRAL_7B_V03 | {"sliding_window": 32768})
    model = dataclasses.replace(MODELS["Mistral-7B-v0.3"][1], max_position_embeddings=65536)
    with pytest.raises(ConfigError, match="sliding_window is 32768 of 65536 positions"):
        around(model, reference)


def test_a_reference_of_another_model_is_refused(tmp_path: Path) -> None:
    reference = directory(tmp_path, config=LLAMA_32_1B)
    with pytest.raises(
        ConfigError, match=r"is not of the model that is converted: num_layers is 28, the reference's 16; .*"
    ):
        around(MODELS["Llama-3.2-3B"][1], reference)
    with pytest.raises(
        ConfigError, match=r"add_qkv_bias is True, the reference's False; name its own with --reference"
    ):
        around(dataclasses.replace(MODELS["Llama-3.2-1B"][1], add_qkv_bias=True), reference)


def test_tokenizer_and_licence_of_a_reference_are_carried_over(tmp_path: Path) -> None:
    reference = directory(tmp_path, config=LLAMA_32_1B, tokenizer=TOKENIZER, tokenizer_config={})
    names = ("LICENSE.txt", "USE_POLICY.md", "NOTICE", "model.safetensors", "README.md", "noticeable.txt")
    for name in names:
        (reference / name).write_text(name)
    carried = {"tokenizer.json", "tokenizer_config.json", "LICENSE.txt", "USE_POLICY.md", "NOTICE"}
    found = around(MODELS["Llama-3.2-1B"][1], reference)
    assert found.copies == {name: reference / name for name in carried}
    assert found.notes == ()
    assert json.loads(found.files["generation_config.json"]) == {"bos_token_id": 128000, "eos_token_id": 128001}
    # an import keeps these, and what an export reads
    assert hf_config.keep(reference) == {name: reference / name for name in carried | {"config.json", "README.md"}}


def test_a_named_tokenizer_comes_before_that_of_the_reference(tmp_path: Path) -> None:
    reference = directory(tmp_path / "reference", config=LLAMA_32_1B, tokenizer=TOKENIZER)
    other = directory(tmp_path / "other", tokenizer=TOKENIZER, tokenizer_config={"eos_token": "<end>"})
    found = around(MODELS["Llama-3.2-1B"][1], reference, tokenizer=other)
    assert found.copies["tokenizer.json"] == other / "tokenizer.json"
    assert found.notes == (f"config.json ends a text with id 128001, the tokenizer in {other} with 2",)


def test_a_tokenizer_that_does_not_say_how_texts_end_is_said(tmp_path: Path) -> None:
    found = around(small(), tokenizer=directory(tmp_path, tokenizer=TOKENIZER))
    assert found.notes == (
        f"{tmp_path} does not say which token ends a text: set eos_token_id in config.json before generating",
    )


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json", "tokenizer.json", "LICENSE"])
def test_a_pointer_of_git_lfs_is_refused_both_ways(tmp_path: Path, name: str) -> None:
    reference = directory(tmp_path, config=LLAMA_32_1B, tokenizer=TOKENIZER, tokenizer_config={})
    (reference / name).write_text("version https://git-lfs.github.com/spec/v1\n")
    for refused in (lambda: hf_config.keep(reference), lambda: around(MODELS["Llama-3.2-1B"][1], reference)):
        with pytest.raises(ArtifactError, match=rf"{name} is a pointer of Git LFS"):
            refused()


def test_what_is_no_tokenizer_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(tmp_path))} holds no tokenizer \(tokenizer.json, "):
        around(small(), tokenizer=tmp_path)
    with pytest.raises(ConfigError, match="goes up to id 2 and the model has 2 tokens"):
        around(small(vocab_size=2), tokenizer=directory(tmp_path, tokenizer=TOKENIZER))
