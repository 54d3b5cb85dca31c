"""Real Megatron-Core training on gloo: it learns, branches continue, and a run started as a user's is resumes when killed.

Layouts are compared in test_layouts.py, what keeps a run going in test_running.py and test_faults.py.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
from ranks import Ranks

from megatron_octo import artifacts
from megatron_octo.launch import local
from megatron_octo.launch.jobs import StageFailedError
from megatron_octo.training.blend import blend
from megatron_octo.training.config import OptimizerState
from megatron_octo.training.estimate import parameters

STEPS = 10

#: A rank that is killed after step 5, between two checkpoints.
KILLED = """
import os, signal
from megatron_octo import process
from megatron_octo.training import run
from megatron_octo.training.config import TrainingJob

def killed_midway(job, out, force):
    from megatron_octo.training import loop
    train_step = loop.forward_backward

    def forward_backward(run, windows):
        if os.environ["RANK"] == "1" and run.progress.step == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return train_step(run, windows)

    loop.forward_backward = forward_backward
    run.run(job, out, force)

if __name__ == "__main__":
    raise SystemExit(process.main(killed_midway, TrainingJob))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, ranks: Ranks) -> Path:
    """Directory of finished runs by name; `dp2` was started by the local launcher, with a process of its own per rank."""
    root = tmp_path_factory.mktemp("training")
    tiny.write_shards(root / "shards", "prose", windows=50, seed=1)
    tiny.write_shards(root / "shards", "code", windows=7, seed=2)
    tiny.write_shards(root / "shards", "one_batch", windows=tiny.BATCH, seed=3)
    *quick, launched = layouts(root)
    for job in (*quick, *branches(root)):
        ranks.must(job)
    local.run([quick[0], launched], cores=2)
    return root


def layouts(root: Path) -> list[tiny.Job]:
    parent = tiny.phase("parent", steps=2)
    recipe = tiny.branch(parent, "child", steps=STEPS, at_step=2, state=OptimizerState.CARRY)
    return [
        tiny.job(root, "parent", parent),
        tiny.job(root, "one", recipe, parent="parent"),
        tiny.job(root, "dp2", recipe, ranks=2, parent="parent"),
    ]


def branches(root: Path) -> list[tiny.Job]:
    """On a corpus of one batch every step sees the same tokens, whatever the phase is called: runs compare directly."""
    whole = tiny.phase("whole", steps=6, blend=blend(one_batch=1.0))
    return [
        tiny.job(root, "whole", whole),
        *(
            tiny.job(
                root, state.value, tiny.branch(whole, state.value, steps=3, at_step=3, state=state), parent="whole"
            )
            for state in OptimizerState
        ),
    ]


def metrics(directory: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in tiny.CLOCK} for row in rows]


def values(directory: Path, key: str) -> list[float]:
    return [row[key] for row in metrics(directory)]


@pytest.mark.slow
def test_it_learns(runs: Path) -> None:
    losses = values(runs / "one", "loss")
    assert len(losses) == STEPS
    assert losses[-1] < losses[0] - 0.3


@pytest.mark.slow
def test_a_branch_counts_its_own_steps_and_the_tokens_of_both(runs: Path) -> None:
    assert values(runs / "one", "step") == list(range(1, STEPS + 1))
    assert values(runs / "one", "total_tokens")[0] == 3 * tiny.STEP
    counts = artifacts.finished(runs / "one")["counts"]
    assert (counts["steps"], counts["tokens"], counts["total_tokens"]) == (10, 10 * tiny.STEP, 12 * tiny.STEP)
    assert counts["epochs"] == {"prose": 28 / 50, "code": 12 / 7}


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["one", "dp2"])
def test_the_parameters_counted_are_the_models(runs: Path, layout: str) -> None:
    assert artifacts.finished(runs / layout)["counts"]["parameters"] == parameters(tiny.MODEL)


@pytest.mark.slow
def test_a_branch_with_carried_state_is_the_run_continued(runs: Path) -> None:
    # The same sequences in another order within the batch: sums differ in the last digits.
    assert values(runs / "carry", "loss") == pytest.approx(values(runs / "whole", "loss")[3:], abs=1e-5)


@pytest.mark.slow
def test_a_branch_with_fresh_state_starts_from_the_same_weights_and_goes_its_own_way(runs: Path) -> None:
    fresh, whole = values(runs / "reset", "loss"), values(runs / "whole", "loss")[3:]
    assert fresh[0] == pytest.approx(whole[0], abs=1e-5)
    assert abs(fresh[2] - whole[2]) > 1e-3


@pytest.mark.slow
def test_a_killed_rank_is_named_and_the_resumed_run_is_the_unbroken_one(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "killed.py").write_text(KILLED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    broken = next(job for job in layouts(runs) if job.name == "dp2")
    broken = dataclasses.replace(broken, name="broken", out=runs / "broken", logs=runs / "logs" / "broken", needs=())
    with pytest.raises(StageFailedError, match="rank 1 of stage broken was killed by SIGKILL"):
        local.run([dataclasses.replace(broken, module="killed")], cores=2)
    assert values(runs / "broken", "step") == [1, 2, 3, 4, 5]
    assert not artifacts.read_mark(runs / "broken")["done"]

    local.run([broken], cores=2)
    assert metrics(runs / "broken") == metrics(runs / "dp2")


@pytest.mark.slow
def test_only_whole_checkpoints_are_left_and_the_newest_is_named(runs: Path) -> None:
    checkpoints = runs / "dp2" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == [
        "iter_0000006", "iter_0000009", "iter_0000010", "latest",
    ]  # fmt: skip
    assert (checkpoints / "latest").read_text() == "iter_0000010\n"


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(runs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = (runs / "dp2" / "stage.json").read_bytes()
    local.run([job for job in layouts(runs) if job.name in ("parent", "dp2")], cores=2)
    assert (runs / "dp2" / "stage.json").read_bytes() == before
    assert "dp2: done before" in capfd.readouterr().err
