"""Hugging Face directories: weights readable by safetensors, configs by transformers, and parity that can fail."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from megatron_octo.conversion import card, hf_config, parity
from megatron_octo.conversion.hf_weights import SafetensorsReader, write_safetensors
from megatron_octo.errors import ArtifactError, ConfigError
from megatron_octo.training.config import ModelConfig

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1.0, 2.0]), "c": torch.full((3,), 7.0)}
SHAPES = {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}
MODEL = ModelConfig(
    # more layers than Qwen's default of those with full attention
    num_layers=30, hidden_size=16, ffn_hidden_size=24, num_attention_heads=4, num_query_groups=2, kv_channels=8,
    vocab_size=32, max_position_embeddings=16384, layernorm_epsilon=2e-5,
)  # fmt: skip
FAMILIES: dict[str, dict[str, bool]] = {"llama": {}, "qwen2": {"add_qkv_bias": True}, "qwen3": {"qk_layernorm": True}}


def model(family: str = "llama", **changes: Any) -> ModelConfig:
    return dataclasses.replace(MODEL, **FAMILIES[family], **changes)


def write_config(directory: Path, described: ModelConfig = MODEL, **changes: Any) -> Path:
    hf_config.write_config(directory, described, dtype=torch.bfloat16, bos_token_id=0, eos_token_id=1)
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return file


def write(directory: Path, *, dtype: torch.dtype = torch.float32, max_shard_bytes: int = 1000) -> None:
    write_safetensors(
        directory, shapes=SHAPES, tensors=TENSORS.items(), dtype=dtype, max_shard_bytes=max_shard_bytes
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_file(tmp_path: Path, dtype: torch.dtype) -> None:
    write(tmp_path, dtype=dtype)
    found = load_file(tmp_path / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert all(torch.equal(found[name], TENSORS[name].to(dtype)) for name in TENSORS)


def test_several_files_with_an_index(tmp_path: Path) -> None:
    write(tmp_path, max_shard_bytes=20)  # a alone is 24 bytes, b and c are 8 and 12
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    assert index == {"metadata": {"total_size": 44}, "weight_map": {"a": first, "b": second, "c": second}}
    reader = SafetensorsReader(tmp_path)
    reader.check(SHAPES, copies={})
    assert all(torch.equal(reader.read(name), TENSORS[name]) for name in TENSORS)


def test_missing_and_unexpected_tensors_are_listed(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ArtifactError, match=r"missing: d; unexpected: b, c"):
        SafetensorsReader(tmp_path).check({"a": (2, 3), "d": (1,)}, copies={})
    with pytest.raises(ArtifactError, match=r"b is \[2\], its config.json says \[5\]"):
        SafetensorsReader(tmp_path).check(SHAPES | {"b": (5,)}, copies={})


def test_a_tied_tensor_may_be_written_twice(tmp_path: Path) -> None:
    copy = {"lm_head": "a"}
    save_file(TENSORS | {"lm_head": TENSORS["a"].clone()}, tmp_path / "model.safetensors")
    SafetensorsReader(tmp_path).check(SHAPES, copies=copy)
    save_file(TENSORS | {"lm_head": TENSORS["a"] + 1}, tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"ties lm_head to a, and the two differ; .* tie_word_embeddings false"):
        SafetensorsReader(tmp_path).check(SHAPES, copies=copy)


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0no header")
    with pytest.raises(ArtifactError, match=r"cannot read .*model\.safetensors"):
        SafetensorsReader(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("factor", [None, 32.0])
def test_config_round_trip(tmp_path: Path, family: str, tied: bool, factor: float | None) -> None:
    described = model(family, share_embeddings_and_output_weights=tied, rope_scaling_factor=factor)
    write_config(tmp_path, described)
    assert hf_config.read_config(tmp_path) == described
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.model_type, config.dtype, config.bos_token_id, config.eos_token_id) == (family, torch.bfloat16, 0, 1)
    assert config.rope_parameters["rope_type"] == ("default" if factor is None else "llama3")


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_every_layer_attends_to_the_full_context(tmp_path: Path, family: str) -> None:
    write_config(tmp_path, model(family))
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.use_sliding_window, config.sliding_window) == (False, None)
    assert config.layer_types == ["full_attention"] * 30


def test_a_model_of_no_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="add_qkv_bias True with qk_layernorm True is no Hugging Face model; allowed: neither"
    ):
        write_config(tmp_path, model("qwen2", qk_layernorm=True))
    assert not list(tmp_path.iterdir())


def test_old_spelling_of_rope_is_read(tmp_path: Path) -> None:
    """Llama-3.2's published config.json, in the words of transformers 4."""
    file = write_config(
        tmp_path,
        rope_theta=500000.0,
        rope_scaling={
            "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
    )  # fmt: skip
    config = json.loads(file.read_text())
    del config["rope_parameters"]
    file.write_text(json.dumps(config))
    found = hf_config.read_config(tmp_path)
    assert (found.rotary_base, found.rope_scaling_factor) == (500_000.0, 32.0)


def test_published_qwen_is_read(tmp_path: Path) -> None:
    """Qwen2.5-1.5B's config.json: no head_dim, and a window that is not in use."""
    published = {
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151643,
        "hidden_act": "silu", "hidden_size": 1536, "initializer_range": 0.02, "intermediate_size": 8960,
        "max_position_embeddings": 131072, "max_window_layers": 28, "model_type": "qwen2", "num_attention_heads": 12,
        "num_hidden_layers": 28, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
        "sliding_window": 131072, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True,
        "use_mrope": False, "use_sliding_window": False, "vocab_size": 151936,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(published))
    assert hf_config.read_config(tmp_path) == ModelConfig(
        num_layers=28, hidden_size=1536, ffn_hidden_size=8960, num_attention_heads=12, num_query_groups=2, kv_channels=128,
        vocab_size=151936, max_position_embeddings=131072, rotary_base=1_000_000.0, layernorm_epsilon=1e-6,
        share_embeddings_and_output_weights=True, add_qkv_bias=True,
    )  # fmt: skip


SCALED = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, **hf_config.MEGATRON_ROPE_SCALING}


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("llama", {"model_type": "mistral"}, "model_type 'mistral' is not supported; allowed: llama, qwen2, qwen3"),
        ("llama", {"attention_bias": True}, "attention_bias is True; a Llama model is trained with attention_bias False"),
        ("llama", {"mlp_bias": True}, "mlp_bias is True"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act is gelu; a Llama model is trained with hidden_act silu only"),
        ("qwen3", {"attention_bias": True}, "attention_bias is True; a Qwen3 model"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8}, "use_sliding_window is True; a Qwen2 model"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"] * 15}, "layer_types holds sliding_attention"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "cannot be trained"),
        ("qwen2", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6}}, "'yarn'.* cannot be trained"),
        ("llama", {"rope_parameters": SCALED | {"low_freq_factor": 2.0}}, "cannot be trained"),
        ("llama", {"rope_parameters": SCALED | {"partial_rotary_factor": 0.5}}, "cannot be trained"),
    ],
)  # fmt: skip
def test_what_megatron_cannot_train_is_refused(
    tmp_path: Path, family: str, changes: dict[str, object], message: str
) -> None:
    file = write_config(tmp_path, model(family), **changes)
    with pytest.raises(ConfigError, match=rf"{file}: .*{message}"):
        hf_config.read_config(tmp_path)


@pytest.mark.parametrize(("family", "name"), [("llama", "Llama"), ("qwen2", "Qwen2"), ("qwen3", "Qwen3")])
def test_the_card_names_the_family(tmp_path: Path, family: str, name: str) -> None:
    card.write_card(tmp_path, model=model(family), checkpoint=Path("iter_0000007"), stage=None)
    assert f"A decoder of the {name} family: 30 layers, hidden size 16" in (tmp_path / "README.md").read_text()


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
