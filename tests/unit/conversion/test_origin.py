"""Which checkpoint a source means and which model it is of: stages of ours in every state, Megatron-LM's directories, others."""

import argparse
import dataclasses
import json
import pickle
from pathlib import Path

import pytest
import torch
from published_configs import LLAMA_31_8B, LLAMA_32_1B, MEGATRON_LM_LLAMA, MODELS
from torch.distributed.checkpoint.metadata import Metadata

from megatron_octo.config import dumps
from megatron_octo.conversion import origin
from megatron_octo.errors import ArtifactError, ConfigError

MODEL = MODELS["Llama-3.2-1B"][1]


def checkpoint(directory: Path, *, complete: bool = True, **common: object) -> Path:
    """A checkpoint without tensors, as torch writes its parts."""
    directory.mkdir(parents=True)
    torch.save(common, directory / "common.pt")
    (directory / ".metadata").write_bytes(pickle.dumps(Metadata(state_dict_metadata={}, storage_data={})))
    if complete:
        (directory / "metadata.json").write_text("{}")
    return directory


def stage(directory: Path, *steps: int, latest: int | None = None, ancestors: tuple[Path, ...] = ()) -> Path:
    directory.mkdir()
    (directory / "model.json").write_text(dumps(MODEL))
    for step in steps:
        checkpoint(directory / "checkpoints" / f"iter_{step:07d}")
    if latest is not None:
        (directory / "checkpoints" / "latest").write_text(f"iter_{latest:07d}\n")
    if ancestors:
        found = [{"name": place.name, "directory": str(place), "step": 0, "total_tokens": 0} for place in ancestors]
        (directory / "lineage.json").write_text(json.dumps({"name": directory.name, "ancestors": found}))
    return directory


def hugging_face(directory: Path, config: dict[str, object] | None = None) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config or LLAMA_32_1B))
    return directory


def megatron_lm(directory: Path, says: str, *names: str) -> Path:
    for name in names:
        checkpoint(directory / name, args=argparse.Namespace(**MEGATRON_LM_LLAMA))
    (directory / "latest_checkpointed_iteration.txt").write_text(says)
    return directory


def test_a_stage_means_its_newest_checkpoint(tmp_path: Path) -> None:
    """No stage.json is needed: it may still be training."""
    found = origin.find(stage(tmp_path / "run", 5, 10, latest=10))
    assert found == origin.Origin(tmp_path / "run/checkpoints/iter_0000010", MODEL, tmp_path / "run", None)
    assert found.step == 10


def test_a_checkpoint_of_a_stage_means_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stage(tmp_path / "run", 5, 10, latest=10)
    assert origin.find(run / "checkpoints/iter_0000005").stage == run
    monkeypatch.chdir(run / "checkpoints")
    assert origin.find(Path("iter_0000005")).stage == run


def test_a_pointer_to_what_is_gone_means_the_newest_that_is_complete(tmp_path: Path) -> None:
    run = stage(tmp_path / "run", 5, 10, latest=15)
    checkpoint(run / "checkpoints/iter_0000020", complete=False)
    checkpoint(run / "checkpoints/.iter_0000030.partial")
    assert origin.find(run).checkpoint.name == "iter_0000010"


def test_a_stage_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    run = stage(tmp_path / "run")
    (run / "checkpoints").mkdir()
    with pytest.raises(ArtifactError, match="run has no complete checkpoint yet; train or import"):
        origin.find(run)
    with pytest.raises(ArtifactError, match=r"is no checkpoint .* no stage .* and no save directory of Megatron-LM"):
        origin.find(tmp_path)


def test_the_reference_is_what_the_nearest_import_kept(tmp_path: Path) -> None:
    first, second = stage(tmp_path / "first"), stage(tmp_path / "second")
    kept = hugging_face(first / "hf")
    run = stage(tmp_path / "run", 1, latest=1, ancestors=(first, tmp_path / "gone", second))
    assert origin.find(run).reference == kept
    nearer = hugging_face(second / "hf")
    assert origin.find(run).reference == nearer
    assert origin.find(run, reference=tmp_path).reference == tmp_path


def test_an_import_refers_to_what_it_kept_itself(tmp_path: Path) -> None:
    imported = stage(tmp_path / "imported", 0, latest=0)
    kept = hugging_face(imported / "hf")
    assert origin.find(imported).reference == kept


@pytest.mark.parametrize(("says", "name"), [("100", "iter_0000100"), ("release\n", "release")])
def test_a_save_directory_of_megatron_lm(tmp_path: Path, says: str, name: str) -> None:
    found = origin.find(megatron_lm(tmp_path / "save", says, "iter_0000050", name))
    assert found == origin.Origin(tmp_path / "save" / name, MODELS["Llama-3.1-8B"][1], None, None)
    assert origin.find(tmp_path / "save" / name).model == found.model
    assert found.step == (100 if says == "100" else None)


def test_a_save_directory_that_is_not_complete(tmp_path: Path) -> None:
    save = megatron_lm(tmp_path / "save", "100", "iter_0000050")
    with pytest.raises(ArtifactError, match=r"names iter_0000100, which is not there .*; there are: iter_0000050"):
        origin.find(save)
    (save / "iter_0000100/mp_rank_00").mkdir(parents=True)
    with pytest.raises(
        ArtifactError, match=r"iter_0000100 is in Megatron-LM's format torch .* --ckpt-format torch_dist"
    ):
        origin.find(save)


def test_the_reference_knows_the_vocabulary(tmp_path: Path) -> None:
    args = argparse.Namespace(**MEGATRON_LM_LLAMA | {"vocab_size": None})
    place = checkpoint(tmp_path / "iter_0000001", args=args)
    with pytest.raises(ConfigError, match="padded vocabulary only"):
        origin.find(place)
    reference = hugging_face(tmp_path / "reference", LLAMA_31_8B | {"vocab_size": 128000})
    found = origin.find(place, reference=reference)
    assert found.model == dataclasses.replace(MODELS["Llama-3.1-8B"][1], vocab_size=128000)
    assert found.reference == reference


def test_the_reference_describes_a_checkpoint_that_says_nothing(tmp_path: Path) -> None:
    place = checkpoint(tmp_path / "iter_0000001", iteration=1)
    with pytest.raises(ConfigError, match=r"does not say of which model it is: .* with --reference"):
        origin.find(place)
    reference = hugging_face(tmp_path / "reference")
    assert origin.find(place, reference=reference).model == MODEL
    (place / "common.pt").unlink()
    assert origin.find(place, reference=reference).model == MODEL
