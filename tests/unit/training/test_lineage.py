"""Where weights come from, over runs that leave each other, and the step at which a branch leaves."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from small_phase import stable

from megatron_octo import artifacts
from megatron_octo.errors import ConfigError
from megatron_octo.training import lineage
from megatron_octo.training.blend import blend
from megatron_octo.training.config import MidTraining, TrainingJob
from megatron_octo.training.lineage import Ancestor, Lineage

TOKENIZER = "70c0"


def decay(*, at_tokens: int) -> MidTraining:
    return stable().branch(
        name="decay", blend=blend(qa=1.0), train_tokens=8192, schedule=stable().schedule, at_tokens=at_tokens
    )


def job(recipe: MidTraining, directory: Path | None) -> TrainingJob:
    return TrainingJob(recipe=recipe, shards=Path("shards"), init_checkpoint=directory)


def of_job(recipe: MidTraining, directory: Path | None, **left: Any) -> Lineage:
    at = {"step": 0, "total_tokens": 0, "carried": False} | left
    return lineage.of_job(job(recipe, directory), tokenizer_sha256=TOKENIZER, **at)


def run(directory: Path, recipe: MidTraining, parent: Path | None = None, **left: Any) -> Path:
    """The directory of a run that has started."""
    directory.mkdir()
    lineage.write(directory, of_job(recipe, parent, **left))
    return directory


def test_random_weights_have_no_ancestors() -> None:
    found = of_job(stable(), None)
    assert found == Lineage(name="stable", tokens_per_step=4096, tokenizer_sha256=TOKENIZER, ancestors=())
    assert found.spelled == "random weights"


def test_every_run_before_is_named_the_first_one_first(tmp_path: Path) -> None:
    imported = tmp_path / "llama"
    imported.mkdir()
    first = run(tmp_path / "first", dataclasses.replace(stable(), init_from="meta/Llama"), imported)
    second = run(tmp_path / "second", decay(at_tokens=819_200), first, step=200, total_tokens=819_200, carried=True)
    found = of_job(stable(), second, step=2, total_tokens=827_392)
    assert found.ancestors == (
        Ancestor(name="meta/Llama", directory=str(imported), step=0, total_tokens=0, optimizer_state=False),
        Ancestor(name="stable", directory=str(first), step=200, total_tokens=819_200, optimizer_state=True),
        Ancestor(name="decay", directory=str(second), step=2, total_tokens=827_392, optimizer_state=False),
    )
    assert found.spelled == (
        "meta/Llama (imported) -> stable after 819K tokens (step 200) -> decay after 827K tokens (step 2, optimizer reset)"
    )


def test_a_lineage_is_read_as_it_was_written(tmp_path: Path) -> None:
    first = run(tmp_path / "first", stable())
    run(tmp_path / "second", decay(at_tokens=4096), first, step=1, total_tokens=4096, carried=True)
    assert lineage.read(tmp_path / "second") == of_job(
        decay(at_tokens=4096), first, step=1, total_tokens=4096, carried=True
    )
    assert lineage.read(tmp_path) is None


@pytest.mark.parametrize(
    ("parents_batch", "at_tokens", "step"),
    [
        (16, 819_200, 200),
        # The parent's steps count, not the branch's own; half a step or more is one.
        (32, 819_200, 100),
        (16, 4096 + 2047, 1),
        (16, 4096 + 2048, 2),
    ],
)
def test_a_branch_leaves_at_a_step_of_its_parent(tmp_path: Path, parents_batch: int, at_tokens: int, step: int) -> None:
    parent = run(tmp_path / "parent", dataclasses.replace(stable(), global_batch_size=parents_batch))
    assert lineage.branch_step(job(decay(at_tokens=at_tokens), parent)) == step


def test_a_branch_leaves_the_run_it_names(tmp_path: Path) -> None:
    other = run(tmp_path / "other", dataclasses.replace(stable(), name="other"))
    with pytest.raises(
        ConfigError, match=r"decay leaves 'stable', and .*other holds the run 'other'; name the directory"
    ):
        lineage.branch_step(job(decay(at_tokens=4096), other))
    with pytest.raises(ConfigError, match="holds an imported model; name the directory of 'stable'"):
        lineage.branch_step(job(decay(at_tokens=4096), tmp_path))


def imported(directory: Path, counts: dict[str, Any]) -> Path:
    with artifacts.stage(directory, kind="convert", config={}) as stage:
        stage.counts |= counts
    return directory


def test_the_tokenizer_of_a_run_and_of_an_imported_model(tmp_path: Path) -> None:
    assert lineage.tokenizer(run(tmp_path / "run", stable())) == TOKENIZER
    assert lineage.tokenizer(imported(tmp_path / "with", {"tokenizer_sha256": "f00d"})) == "f00d"
    assert lineage.tokenizer(imported(tmp_path / "without", {})) is None
