"""Whatever layout, number format and optimizer wrote a checkpoint, its export holds the weights bit for bit.

An imported model is trained for one step at a learning rate that no weight is small enough to feel: Megatron cuts the weights over
its ranks, saves them its way with its optimizer's state, and what is exported must be the model that was imported.
"""

import dataclasses
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import other_savers
import pytest
import tiny_families
import tiny_training as tiny
import torch
from ranks import Ended, Ranks
from tiny_conversions import (
    assert_same,
    assert_same_weights,
    change_model,
    from_hf,
    phase,
    to_hf,
    weights,
    write_corpora,
)
from torch.distributed import checkpoint as torch_checkpoint

from megatron_octo.conversion import origin
from megatron_octo.conversion.config import ExportDtype
from megatron_octo.conversion.torch_dist import Checkpoint
from megatron_octo.errors import ArtifactError, ConfigError
from megatron_octo.training.parallelism import Parallelism
from megatron_octo.training.precision import Precision

pytestmark = pytest.mark.slow

STILL = 1e-30
APART = "decoder.layers.0.mlp.linear_fc1.weight"
FC1, FC2 = "decoder.layers.mlp.linear_fc1.weight", "decoder.layers.mlp.linear_fc2.weight"
TP2 = Parallelism(tensor_model_parallel_size=2)
PP2 = Parallelism(pipeline_model_parallel_size=2)
TP2_PP2 = Parallelism(tensor_model_parallel_size=2, pipeline_model_parallel_size=2)
VPP2 = Parallelism(pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=2, overlap_p2p_comm=True)
CP2 = Parallelism(context_parallel_size=2)
PLAIN = Parallelism(use_distributed_optimizer=False)
PP2_PLAIN = dataclasses.replace(PP2, use_distributed_optimizer=False)


@dataclass(frozen=True)
class Case:
    family: str
    ranks: int = 2
    layout: Parallelism = field(default_factory=Parallelism)
    precision: Precision = Precision.FP32
    #: Boxes that the layout cuts a layer's linear_fc1 and linear_fc2 into.
    boxes: tuple[int, int] = (1, 1)
    #: What Megatron is told about the format, and how it names linear_fc1 then.
    save_as: tuple[str, ...] = ()
    fc1: str = FC1


# Gate and up are cut each for itself, so that linear_fc1 has two boxes on each tensor-parallel rank.
CASES = {
    "one rank": Case("llama-tied", ranks=1, boxes=(2, 1)),
    "one rank, bf16": Case("qwen2-tied", ranks=1, boxes=(2, 1), precision=Precision.BF16),
    "TP 2": Case("llama-untied", layout=TP2, boxes=(4, 2)),
    "TP 2, bf16": Case("qwen3-tied", layout=TP2, boxes=(4, 2), precision=Precision.BF16),
    "PP 2": Case("qwen3-tied", layout=PP2, boxes=(2, 1)),
    "PP 2, plain optimizer, bf16": Case("llama-untied", layout=PP2_PLAIN, boxes=(2, 1), precision=Precision.BF16),
    "TP 2, PP 2, bf16": Case("qwen2-untied", ranks=4, layout=TP2_PP2, boxes=(4, 2), precision=Precision.BF16),
    "PP 2 in two chunks each": Case("llama-tied", layout=VPP2, boxes=(2, 1)),
    "CP 2": Case("qwen3-untied", layout=CP2, boxes=(2, 1)),
    "DP 2, bf16": Case("mistral-untied", boxes=(2, 1), precision=Precision.BF16),
    "DP 2, plain optimizer": Case("qwen2-tied", layout=PLAIN, boxes=(2, 1)),
    "layers apart": Case(
        "qwen2-untied",
        layout=TP2,
        boxes=(4, 2),
        save_as=("non_homogeneous_layers",),
        fc1=APART,
    ),
    "layers, gate and up apart": Case(
        "llama-tied", layout=TP2, boxes=(4, 2), save_as=("singleton_local_shards",), fc1=f"{APART}_w"
    ),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpora(tmp_path_factory.mktemp("layouts"))


def imported(root: Path, family: str) -> Path:
    """An import in several files, made when first asked for; its source is beside it."""
    if not (root / "imported" / family).exists():
        model = tiny_families.make(root / "hf" / family, family)
        stage = from_hf(model, root / "imported" / family, max_shard_bytes=100_000)
        assert len(list(origin.find(stage).checkpoint.glob("__*.distcp"))) > 2
    return root / "imported" / family


def train(root: Path, ranks: Ranks, name: str, case: Case, **changes: Any) -> Path:
    """Go on from the import at the layout of a case, in `root/trained/NAME`."""
    ended = start(root, ranks, name, case, **changes)
    assert ended.ok, "\n".join(ended.said)
    return root / "trained" / name


def start(root: Path, ranks: Ranks, name: str, case: Case, **changes: Any) -> Ended:
    imported(root, case.family)
    settings = {"learning_rate": STILL, "steps": 1, "parallelism": case.layout, "precision": case.precision} | changes
    recipe = phase(root / "hf" / case.family, init_from=case.family, **settings)
    job = tiny.job(root, f"trained/{name}", recipe, ranks=case.ranks, parent=f"imported/{case.family}")
    return ranks.run(job, prelude="other_savers:save_as", argument=dict.fromkeys(case.save_as, True))


@pytest.fixture(scope="module")
def tensor_parallel(root: Path, ranks: Ranks) -> Path:
    """A run of an untied Llama on two tensor-parallel ranks, in fp32."""
    return train(root, ranks, "tensor parallel", CASES["TP 2"])


@pytest.mark.parametrize("name", CASES)
def test_an_export_is_what_was_imported(root: Path, ranks: Ranks, name: str) -> None:
    case = CASES[name]
    trained = train(root, ranks, name, case)
    checkpoint = origin.find(trained).checkpoint
    keys = torch_checkpoint.FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    assert keys.keys() >= {case.fc1, f"optimizer.state.exp_avg.{case.fc1}"}
    assert tuple(len(Checkpoint(checkpoint).stored(key, 0).boxes) for key in (FC1, FC2)) == case.boxes
    dtype = torch.bfloat16 if case.precision is Precision.BF16 else torch.float32
    expected = {name: weight.to(dtype) for name, weight in weights(root / "hf" / case.family).items()}
    assert_same(weights(to_hf(trained, root / "exported" / name, check=True)), expected)


@pytest.mark.parametrize(
    ("name", "master"),
    [("TP 2, bf16", "optimizer.state.param."), ("PP 2, plain optimizer, bf16", "optimizer.state.fp32_param.")],
)
def test_the_master_where_there_are_no_weights(
    root: Path, ranks: Ranks, tmp_path: Path, name: str, master: str
) -> None:
    stage = train(root, ranks, f"master of {name}", CASES[name], learning_rate=1e-2, steps=3)
    weights_bf16 = weights(to_hf(stage, tmp_path / "bf16"))
    shutil.copytree(stage, tmp_path / "stage")
    checkpoint = origin.find(tmp_path / "stage").checkpoint
    other_savers.forget(checkpoint, lambda key: not key.startswith("optimizer."))
    found = weights(to_hf(tmp_path / "stage", tmp_path / "exported"))
    assert {weight.dtype for weight in found.values()} == {torch.float32}
    assert_same({key: weight.bfloat16() for key, weight in found.items()}, weights_bf16)
    # What torch's own reader finds, where both have the same rows.
    keys = {"embedding.word_embeddings.weight": (64, 64), FC2: (4, 64, 96)}
    read = {master + key: torch.empty(shape) for key, shape in keys.items()}
    torch_checkpoint.load(read, storage_reader=torch_checkpoint.FileSystemReader(checkpoint), no_dist=True)
    embedding, fc2 = read.values()
    assert not torch.equal(embedding, embedding.bfloat16().float())
    assert torch.equal(found["model.embed_tokens.weight"], embedding)
    assert torch.equal(torch.stack([found[f"model.layers.{layer}.mlp.down_proj.weight"] for layer in range(4)]), fc2)
    rounded = to_hf(tmp_path / "stage", tmp_path / "rounded", dtype=ExportDtype.BF16)
    assert_same(weights(rounded), weights_bf16)


def test_a_run_of_ours_has_no_padding_to_cut(tensor_parallel: Path, tmp_path: Path) -> None:
    shutil.copytree(tensor_parallel, tmp_path / "stage")
    change_model(tmp_path / "stage", vocab_size=61)
    with pytest.raises(ArtifactError, match=r"embedding\.word_embeddings\.weight is \[64, 64\], not \[61, 64\]"):
        to_hf(tmp_path / "stage", tmp_path / "exported")


def test_a_padded_vocabulary_is_cut(root: Path, tensor_parallel: Path, tmp_path: Path) -> None:
    source = origin.find(tensor_parallel)
    saved = other_savers.megatron_lm(source.checkpoint, tmp_path / "saved", source.model, vocab_size=61)
    found = weights(to_hf(saved, tmp_path / "exported"))
    for name, weight in weights(root / "hf" / "llama-untied").items():
        assert torch.equal(
            found[name], weight[:61] if name in ("model.embed_tokens.weight", "lm_head.weight") else weight
        )


def test_extra_state_is_passed_over(root: Path, tensor_parallel: Path, tmp_path: Path) -> None:
    shutil.copytree(tensor_parallel, tmp_path / "stage")
    other_savers.add_extra_state(origin.find(tmp_path / "stage").checkpoint)
    assert_same_weights(to_hf(tmp_path / "stage", tmp_path / "exported"), root / "hf" / "llama-untied")


@pytest.mark.parametrize("named", [".", "iter_0000007"])
def test_megatron_lm_save_directories(root: Path, tensor_parallel: Path, tmp_path: Path, named: str) -> None:
    source = origin.find(tensor_parallel)
    saved = other_savers.megatron_lm(source.checkpoint, tmp_path / "saved", source.model)
    exported = to_hf(saved / named, tmp_path / "exported", check=True)
    assert_same_weights(exported, root / "hf" / "llama-untied")


def test_megatron_lm_save_directories_of_unknown_vocabulary(root: Path, tensor_parallel: Path, tmp_path: Path) -> None:
    source = origin.find(tensor_parallel)
    unknown = {"vocab_size": None, "padded_vocab_size": 64}
    saved = other_savers.megatron_lm(source.checkpoint, tmp_path / "saved", source.model, **unknown)
    with pytest.raises(ConfigError, match="knows its padded vocabulary only"):
        to_hf(saved, tmp_path / "exported")
    model = root / "hf" / "llama-untied"
    assert_same_weights(to_hf(saved, tmp_path / "exported", reference=model), model)


def test_training_refuses_a_damaged_import(root: Path, ranks: Ranks) -> None:
    whole = imported(root, "llama-untied")
    shutil.copytree(whole, root / "imported" / "damaged")
    file = origin.find(root / "imported" / "damaged").checkpoint / "__1_0.distcp"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    shutil.copytree(root / "hf" / "llama-untied", root / "hf" / "damaged")
    ended = start(root, ranks, "damaged", Case("damaged", layout=TP2))
    assert ended.codes == (2, 2)
    assert "is damaged: __1_0.distcp" in "".join(ended.said)


def test_a_model_of_no_family_is_refused(root: Path, ranks: Ranks) -> None:
    model = dataclasses.replace(tiny.MODEL, add_qkv_bias=True, qk_layernorm=True)
    ranks.must(tiny.job(root, "neither", tiny.phase("neither", steps=1, model=model)))
    with pytest.raises(ConfigError, match="add_qkv_bias True with qk_layernorm True is no Hugging Face model"):
        to_hf(root / "neither", root / "exported" / "neither")
    assert not (root / "exported" / "neither").exists()
