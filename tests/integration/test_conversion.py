"""Hugging Face to Megatron and back: bit-equal tensors, equal config, equal logits, through Megatron's own loading and saving."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from megatron_octo import artifacts
from megatron_octo.conversion import run as conversion
from megatron_octo.conversion.config import Conversion, Direction, ExportDtype
from megatron_octo.conversion.stream import TorchDistReader
from megatron_octo.errors import ArtifactError, ConfigError

PROGRAM = Path(__file__).with_name("megatron_checkpoint.py")
VOCABULARY = {"<|begin_of_text|>": 0, "<|end_of_text|>": 1}


def tiny_llama(directory: Path, *, tied: bool) -> Path:
    """Random weights in transformers' own files; big enough that logits spread, with heads of another size than H / A."""
    torch.manual_seed(5)
    config = LlamaConfig(
        num_hidden_layers=4, hidden_size=64, intermediate_size=96, num_attention_heads=8, num_key_value_heads=4, head_dim=12,
        vocab_size=128, max_position_embeddings=16384, tie_word_embeddings=tied, initializer_range=0.2, rms_norm_eps=1e-5,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def tokenizer(directory: Path) -> Path:
    directory.mkdir()
    model = {"type": "WordLevel", "vocab": VOCABULARY, "unk_token": "<|end_of_text|>"}
    (directory / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    bos, eos = VOCABULARY
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def from_hf(source: Path, out: Path, *, check_logits: bool = False) -> Path:
    config = Conversion(
        direction=Direction.FROM_HF, source=source, dtype=ExportDtype.FP32, check_logits=check_logits
    )  # fmt: skip
    conversion.run(config, out, False)
    return out


def to_hf(source: Path, out: Path, **fields: object) -> Path:
    config = Conversion(**{"direction": Direction.TO_HF, "source": source, "dtype": ExportDtype.FP32} | fields)
    conversion.run(config, out, False)
    return out


def resave(source: Path, out: Path, *, tensor_parallel: int, pipeline_parallel: int) -> Path:
    """Load a stage with Megatron on several ranks and save it again, with optimizer state."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "OMP_NUM_THREADS": "1"}
    world = tensor_parallel * pipeline_parallel
    command = [sys.executable, str(PROGRAM), str(source), str(out), str(tensor_parallel), str(pipeline_parallel)]
    ranks = [
        subprocess.Popen(
            command, env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        )
        for rank in range(world)
    ]
    try:
        assert [rank.wait(timeout=120) for rank in ranks] == [0] * world
    finally:
        for rank in ranks:
            rank.kill()
    return out


def assert_same_weights(one: Path, two: Path) -> None:
    left, right = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("tied", [True, False])
def test_round_trip_is_bit_equal(tmp_path: Path, tied: bool) -> None:
    model = tiny_llama(tmp_path / "model", tied=tied)
    back = to_hf(from_hf(model, tmp_path / "megatron"), tmp_path / "back", tokenizer=tokenizer(tmp_path / "tokenizer"))
    assert_same_weights(model, back)
    before, after = (json.loads((place / "config.json").read_text()) for place in (model, back))
    ignored = ("bos_token_id", "eos_token_id", "initializer_range")
    assert {k: v for k, v in before.items() if k not in ignored} == {k: v for k, v in after.items() if k not in ignored}
    loaded = AutoModelForCausalLM.from_pretrained(back)
    assert (loaded.generation_config.bos_token_id, loaded.generation_config.eos_token_id) == (0, 1)
    assert (back / "README.md").read_text().startswith("---\nlibrary_name: transformers")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tied", "tensor_parallel", "pipeline_parallel"), [(True, 1, 2), (False, 2, 1)], ids=["tied-pp2", "untied-tp2"]
)
def test_megatron_loads_and_saves_at_another_layout(
    tmp_path: Path, tied: bool, tensor_parallel: int, pipeline_parallel: int
) -> None:
    model = tiny_llama(tmp_path / "model", tied=tied)
    imported = from_hf(model, tmp_path / "imported", check_logits=tied)
    trained = resave(
        imported, tmp_path / "trained", tensor_parallel=tensor_parallel, pipeline_parallel=pipeline_parallel
    )
    keys = TorchDistReader(conversion.find_checkpoint(trained).checkpoint).tensors
    assert "optimizer.state.exp_avg.decoder.layers.mlp.linear_fc1.weight" in keys
    exported = to_hf(trained, tmp_path / "exported", check_logits=not tied)
    # Each check costs a Megatron process: one case checks on the way in, the other on the way out.
    checked = artifacts.finished(imported if tied else exported)
    assert checked["counts"]["largest_logit_difference"] <= 1e-5
    assert_same_weights(model, exported)


def test_sharded_export_loads(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model", tied=False)
    back = to_hf(from_hf(model, tmp_path / "megatron"), tmp_path / "back", max_shard_bytes=100_000)
    assert len(list(back.glob("model-*.safetensors"))) > 2
    loaded, original = (AutoModelForCausalLM.from_pretrained(place).state_dict() for place in (back, model))
    assert all(torch.equal(loaded[name], original[name]) for name in original)


def test_bf16_export_rounds_once(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model", tied=True)
    back = to_hf(from_hf(model, tmp_path / "megatron"), tmp_path / "back", dtype=ExportDtype.BF16)
    rounded, original = load_file(back / "model.safetensors"), load_file(model / "model.safetensors")
    assert all(torch.equal(rounded[name], original[name].bfloat16()) for name in original)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    imported = from_hf(tiny_llama(tmp_path / "model", tied=True), tmp_path / "imported")
    described = json.loads((imported / "model.json").read_text())
    (imported / "model.json").write_text(json.dumps(described | {"share_embeddings_and_output_weights": False}))
    with pytest.raises(ArtifactError, match=r"missing: output_layer\.weight; unexpected: none"):
        to_hf(imported, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_logits_need_a_stage(tmp_path: Path) -> None:
    imported = from_hf(tiny_llama(tmp_path / "model", tied=True), tmp_path / "imported")
    with pytest.raises(ConfigError, match="check_logits runs the newest checkpoint of a stage; name"):
        to_hf(imported / "checkpoints" / "iter_0000000", tmp_path / "back", check_logits=True)


def test_not_a_stage(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="neither a checkpoint nor a stage directory"):
        to_hf(tmp_path / "empty", tmp_path / "back")
