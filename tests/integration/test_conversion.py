"""Hugging Face to Megatron and back: bit-equal tensors, equal config, equal logits, through Megatron's own loading and saving."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_families
import tiny_training
import torch
from ranks import Ranks
from safetensors.torch import load_file, save_file
from tiny_conversions import assert_same_weights, change_model, from_hf, phase, to_hf, write_corpora
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_octo import artifacts
from megatron_octo.conversion import hf_logits, parity
from megatron_octo.conversion.config import ExportDtype
from megatron_octo.errors import ArtifactError

PROGRAM = Path(__file__).with_name("megatron_logits.py")
VOCABULARY = {"<|begin_of_text|>": 0, "<|end_of_text|>": 1}
#: fp32 sums in another order.
TOLERANCE = 1e-5


def tokenizer(directory: Path) -> Path:
    directory.mkdir()
    model = {"type": "WordLevel", "vocab": VOCABULARY, "unk_token": "<|end_of_text|>"}
    (directory / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    bos, eos = VOCABULARY
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def megatron_logits(*stages: Path) -> None:
    subprocess.run([sys.executable, str(PROGRAM), *map(str, stages)], check=True)


def difference(megatron: Path, hugging_face: Path) -> float:
    """Of Megatron's logits, in an .npz, and those of a Hugging Face directory."""
    found = megatron.with_name(f"{hugging_face.name}-hf.npz")
    hf_logits.compute(hugging_face, megatron, found)
    return parity.compare(megatron, found, tolerance=TOLERANCE)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpora(tmp_path_factory.mktemp("conversion"))


@pytest.fixture(scope="module")
def both_ways(shards: Path, ranks: Ranks) -> Path:
    """Per family: `hf/NAME`, a random model, and `imported/NAME` made from it; `trained/NAME`, a few steps from random weights on
    two tensor-parallel ranks, and `exported/NAME` made from it. The Megatron stages hold their `logits.npz`."""
    root = shards
    for name in tiny_families.NAMES:
        model = tiny_families.make(root / "hf" / name, name)
        from_hf(model, root / "imported" / name)
        # Far enough from where training starts that no bias is zero and no norm one.
        recipe = tiny_training.laid_out(phase(model, learning_rate=0.03), tensor=2)
        ranks.must(tiny_training.job(root, f"trained/{name}", recipe, ranks=2))
        to_hf(root / "trained" / name, root / "exported" / name)
    megatron_logits(*(root / way / name for way in ("imported", "trained") for name in tiny_families.NAMES))
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny_families.NAMES)
def test_imported_models_answer_as_transformers_does(both_ways: Path, name: str) -> None:
    assert difference(both_ways / "imported" / name / "logits.npz", both_ways / "hf" / name) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny_families.NAMES)
def test_exported_models_answer_as_megatron_does(both_ways: Path, name: str) -> None:
    exported = both_ways / "exported" / name
    for weight_name, weight in load_file(exported / "model.safetensors").items():
        start = 1.0 if "norm" in weight_name else 0.0
        assert (weight - start).abs().max() > 0.01, f"{weight_name} is what training started from"
    assert difference(both_ways / "trained" / name / "logits.npz", exported) <= TOLERANCE


@pytest.mark.slow
def test_a_wrong_order_of_biases_would_show(both_ways: Path, tmp_path: Path) -> None:
    """The tolerance above is no blanket: one swapped pair of numbers in one bias is beyond it."""
    source, npz = both_ways / "hf" / "qwen2-tied", both_ways / "imported" / "qwen2-tied" / "logits.npz"
    model = AutoModelForCausalLM.from_pretrained(source)
    bias = model.model.layers[3].self_attn.q_proj.bias
    with torch.no_grad():
        bias[:2] = bias[:2].flip(0)
    model.save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match="differ by up to"):
        difference(npz, tmp_path)


@pytest.mark.parametrize("name", tiny_families.NAMES)
def test_round_trip_is_bit_equal(tmp_path: Path, name: str) -> None:
    model = tiny_families.make(tmp_path / "model", name)
    imported = from_hf(model, tmp_path / "megatron", check=True)
    back = to_hf(imported, tmp_path / "back", check=True)
    assert_same_weights(model, back)
    for file in ("config.json", "generation_config.json"):
        assert json.loads((back / file).read_text()) == json.loads((model / file).read_text())
    assert (back / "README.md").read_text().startswith("---\nlibrary_name: transformers")


def test_an_export_without_a_reference_is_complete(tmp_path: Path) -> None:
    imported = from_hf(tiny_families.make(tmp_path / "model", "llama-untied"), tmp_path / "megatron")
    shutil.rmtree(imported / "hf")
    back = to_hf(imported, tmp_path / "back", tokenizer=tokenizer(tmp_path / "tokenizer"))
    loaded, original = (AutoModelForCausalLM.from_pretrained(place) for place in (back, tmp_path / "model"))
    assert loaded.config.rope_parameters == original.config.rope_parameters
    assert (loaded.config.dtype, loaded.config.max_position_embeddings) == (torch.float32, 16384)
    assert (loaded.generation_config.bos_token_id, loaded.generation_config.eos_token_id) == (0, 1)
    assert AutoTokenizer.from_pretrained(back).eos_token_id == 1


@pytest.mark.slow
def test_conversions_check_themselves(tmp_path: Path) -> None:
    model = tiny_families.make(tmp_path / "model", "qwen3-tied")
    imported = from_hf(model, tmp_path / "imported", check_logits=True)
    exported = to_hf(imported, tmp_path / "exported", check_logits=True)
    for stage in (imported, exported):
        assert artifacts.finished(stage)["counts"]["largest_logit_difference"] <= TOLERANCE


@pytest.mark.parametrize("name", ["llama-untied", "qwen2-untied"])
@pytest.mark.parametrize("max_shard_bytes", [100_000, 300])
def test_sharded_export_loads(tmp_path: Path, name: str, max_shard_bytes: int) -> None:
    """300 bytes: a matrix is larger than a file may be, a bias or a norm is not."""
    model = tiny_families.make(tmp_path / "model", name)
    back = to_hf(from_hf(model, tmp_path / "megatron"), tmp_path / "back", max_shard_bytes=max_shard_bytes)
    assert len(list(back.glob("model-*.safetensors"))) > 2
    loaded, original = (AutoModelForCausalLM.from_pretrained(place).state_dict() for place in (back, model))
    assert all(torch.equal(loaded[name], original[name]) for name in original)


def test_bf16_export_rounds_once(tmp_path: Path) -> None:
    model = tiny_families.make(tmp_path / "model", "llama-tied")
    back = to_hf(from_hf(model, tmp_path / "megatron"), tmp_path / "back", dtype=ExportDtype.BF16)
    rounded, original = load_file(back / "model.safetensors"), load_file(model / "model.safetensors")
    assert all(torch.equal(rounded[name], original[name].bfloat16()) for name in original)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    imported = from_hf(tiny_families.make(tmp_path / "model", "llama-tied"), tmp_path / "imported")
    change_model(imported, share_embeddings_and_output_weights=False)
    with pytest.raises(ArtifactError, match=r"missing: output_layer\.weight; unexpected: none"):
        to_hf(imported, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_second_copy_of_tied_embeddings_is_read(tmp_path: Path) -> None:
    model = tiny_families.make(tmp_path / "model", "qwen3-tied")
    weights = load_file(model / "model.safetensors")
    twice = weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    save_file(twice, model / "model.safetensors", metadata={"format": "pt"})
    back = load_file(to_hf(from_hf(model, tmp_path / "imported"), tmp_path / "back") / "model.safetensors")
    assert back.keys() == weights.keys()


def test_not_a_stage(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match=r"is no checkpoint \(it has no \.metadata\), no stage"):
        to_hf(tmp_path / "empty", tmp_path / "back")
