"""What both engines' stages share: inputs, counts, and when a result counts. The engine here trains nothing."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rl_recipes

from megatron_octo import config, jsonl
from megatron_octo.artifacts import read_mark
from megatron_octo.errors import ArtifactError, OctoError
from megatron_octo.rl import restart
from megatron_octo.rl.config import Algorithm, Critic, Reward, RLJob
from megatron_octo.rl.prompts import Prepared
from megatron_octo.rl.stage import Trained, inputs, outcome, run_stage
from megatron_octo.templates import Template

PREPARED = Prepared(sequence=[], kept=5, dropped=2)


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., RLJob]:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"question": "1 + 1", "answer": "2"}) + "\n")

    def made(**changes: Any) -> RLJob:
        return RLJob(
            recipe=rl_recipes.on_openrlhf(**changes),
            model=tmp_path / "model",
            prompts=questions,
            eval_sets={"math500": questions},
        )

    return made


def train(job: RLJob, **_: Any) -> Trained:
    return Trained(optimizer_updates=400, steps_with_spread=200, questions=1, dropped_questions=0)


def refuse(job: RLJob, **_: Any) -> Trained:
    raise AssertionError("there is nothing to train")


def test_a_stage_counts_and_is_done_once(job: Callable[..., RLJob], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_stage(job(), out, force=False, train=train)
    mark = read_mark(out)
    assert mark is not None
    assert mark["counts"] == {
        "steps": 200, "rollouts": 200 * 128 * 16, "optimizer_updates": 400, "steps_with_spread": 200, "questions": 1,
        "dropped_questions": 0,
    }  # fmt: skip
    run_stage(job(), out, force=False, train=refuse)


def test_a_finished_stage_answers_without_torch(job: Callable[..., RLJob], tmp_path: Path) -> None:
    on_trl = replace(job(), recipe=rl_recipes.on_trl())
    run_stage(on_trl, tmp_path / "out", force=False, train=train)
    (tmp_path / "job.json").write_text(config.dumps(on_trl))
    code = (
        "import sys; from megatron_octo.rl import run; from megatron_octo.rl.config import RLJob; from megatron_octo import process; "
        "left = process.main(run.run, RLJob); print(left, 'torch' in sys.modules)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "job.json"), str(tmp_path / "out")]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "0 False\n"


def test_a_restart_of_a_finished_run_without_a_change_is_refused_aloud(
    job: Callable[..., RLJob], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_stage(job(), tmp_path / "out", force=False, train=train)
    run_stage(replace(job(), restart_from=20), tmp_path / "out", force=False, train=refuse)
    assert "restart_from is ignored" in capsys.readouterr().err


def test_a_finished_run_with_something_changed_goes_back_to_the_same_step_again(
    job: Callable[..., RLJob], tmp_path: Path
) -> None:
    went_back: list[int] = []

    def train_again(job: RLJob, *, out: Path, **_: Any) -> Trained:
        restart.once(job, out, went_back.append)
        return train(job)

    for clip in (0.2, 0.1):
        tuned = replace(job(clip_epsilon=clip), restart_from=20)
        run_stage(tuned, tmp_path / "out", force=False, train=train_again)
    assert went_back == [20, 20]


def test_a_template_and_a_reward_of_the_users_own_are_inputs(job: Callable[..., RLJob], tmp_path: Path) -> None:
    template, reward, out = tmp_path / "mine.txt", tmp_path / "reward.py", tmp_path / "out"
    template.write_text("{question}")
    reward.write_text("def mine(response, answer, **_):\n    return 1.0\n")
    own = job(template=Template.FILE, template_file=template, reward=Reward(function=f"{reward}:mine"))
    assert {name: path.name for name, path in inputs(own).items()} == {
        "model": "model", "prompts": "questions.jsonl", "eval/math500": "questions.jsonl",
        "template_file": "mine.txt", "reward": "reward.py",
    }  # fmt: skip
    run_stage(own, out, force=False, train=train)
    reward.write_text("def mine(response, answer, **_):\n    return 0.0\n")
    with pytest.raises(ArtifactError, match="another input 'reward'"):
        run_stage(own, out, force=False, train=train)


def test_a_reward_of_an_installed_module_is_no_file(job: Callable[..., RLJob]) -> None:
    assert "reward" not in inputs(job(reward=Reward(function="operator:eq")))


def write_metrics(out: Path, *without_spread: float) -> None:
    """A step for every share, and an evaluation."""
    steps = [
        {"step": number, "reward": 0.5, "groups_without_spread": share} for number, share in enumerate(without_spread)
    ]
    jsonl.append(out / "metrics.jsonl", [*steps, {"step": 1, "eval/math500/accuracy": 0.25}])


def test_what_a_run_did_follows_from_its_metrics(job: Callable[..., RLJob], tmp_path: Path) -> None:
    write_metrics(tmp_path, 1.0, 0.75, 0.0)
    assert outcome(job(), tmp_path, PREPARED, weights_changed=True) == Trained(
        optimizer_updates=3 * 2, steps_with_spread=2, questions=5, dropped_questions=2
    )


def test_without_an_update_there_is_no_result(job: Callable[..., RLJob], tmp_path: Path) -> None:
    write_metrics(tmp_path)
    with pytest.raises(OctoError, match="test: no optimizer update was made in 200 steps; with dynamic sampling"):
        outcome(job(), tmp_path, PREPARED, weights_changed=False)


def test_weights_that_should_have_changed_and_did_not_are_an_error(job: Callable[..., RLJob], tmp_path: Path) -> None:
    write_metrics(tmp_path, 1.0, 0.5)
    with pytest.raises(OctoError, match="2 steps were made and the weights did not change; learning_rate is 1e-06"):
        outcome(job(), tmp_path, PREPARED, weights_changed=False)


def test_where_there_was_nothing_to_learn_that_is_said(
    job: Callable[..., RLJob], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_metrics(tmp_path, 1.0, 1.0)
    assert outcome(job(), tmp_path, PREPARED, weights_changed=False).steps_with_spread == 0
    assert "warning: test: every group of 16 samples got equal rewards" in capsys.readouterr().err


def test_ppo_learns_without_comparing_samples(
    job: Callable[..., RLJob], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_metrics(tmp_path, 1.0)
    ppo = job(algorithm=Algorithm.PPO, critic=Critic(), samples_per_prompt=1)
    assert outcome(ppo, tmp_path, PREPARED, weights_changed=True).optimizer_updates == 2
    with pytest.raises(OctoError, match="the weights did not change"):
        outcome(ppo, tmp_path, PREPARED, weights_changed=False)
    assert capsys.readouterr().err == ""
