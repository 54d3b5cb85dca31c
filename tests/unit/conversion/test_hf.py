"""Hugging Face directories: weights readable by safetensors, configs by transformers, and parity that can fail."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from megatron_octo.conversion import hf_config, parity
from megatron_octo.conversion.hf_weights import SafetensorsReader, write_safetensors
from megatron_octo.errors import ArtifactError, ConfigError
from megatron_octo.training.config import ModelConfig

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1.0, 2.0]), "c": torch.full((3,), 7.0)}
SHAPES = {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}
MODEL = ModelConfig(
    num_layers=2, hidden_size=16, ffn_hidden_size=24, num_attention_heads=4, num_query_groups=2, kv_channels=8,
    vocab_size=32, max_position_embeddings=16384, layernorm_epsilon=2e-5,
)  # fmt: skip


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
    reader.check(SHAPES)
    assert all(torch.equal(reader.read(name), TENSORS[name]) for name in TENSORS)


def test_missing_and_unexpected_tensors_are_listed(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ArtifactError, match=r"missing: d; unexpected: b, c"):
        SafetensorsReader(tmp_path).check({"a": (2, 3), "d": (1,)})
    with pytest.raises(ArtifactError, match=r"b is \[2\], its config.json says \[5\]"):
        SafetensorsReader(tmp_path).check(SHAPES | {"b": (5,)})


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0no header")
    with pytest.raises(ArtifactError, match=r"cannot read .*model\.safetensors"):
        SafetensorsReader(tmp_path)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("factor", [None, 32.0])
def test_config_round_trip(tmp_path: Path, tied: bool, factor: float | None) -> None:
    fields = {name: getattr(MODEL, name) for name in MODEL.__dataclass_fields__}
    model = ModelConfig(**fields | {"share_embeddings_and_output_weights": tied, "rope_scaling_factor": factor})
    hf_config.write_config(tmp_path, model, dtype=torch.bfloat16, bos_token_id=0, eos_token_id=1)
    assert hf_config.read_config(tmp_path) == model
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.dtype, config.bos_token_id, config.eos_token_id) == (torch.bfloat16, 0, 1)
    assert config.rope_parameters["rope_type"] == ("default" if factor is None else "llama3")


def test_old_spelling_of_rope_is_read(tmp_path: Path) -> None:
    """Llama-3.2's published config.json, in the words of transformers 4."""
    hf_config.write_config(tmp_path, MODEL, dtype=torch.bfloat16, bos_token_id=None, eos_token_id=None)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_parameters"]
    config |= {
        "rope_theta": 500000.0,
        "rope_scaling": {
            "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = hf_config.read_config(tmp_path)
    assert (model.rotary_base, model.rope_scaling_factor) == (500_000.0, 32.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen3"}, "model_type 'qwen3' is not supported; allowed: llama"),
        ({"attention_bias": True}, "attention_bias is not Llama's"),
        ({"hidden_act": "gelu"}, "hidden_act gelu is not Llama's"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "cannot be trained"),
    ],
)
def test_what_megatron_cannot_train_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    hf_config.write_config(tmp_path, MODEL, dtype=torch.bfloat16, bos_token_id=None, eos_token_id=None)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ConfigError, match=message):
        hf_config.read_config(tmp_path)


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
