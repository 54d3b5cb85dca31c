"""Going back to an earlier step, once however often the command is run again."""

from dataclasses import replace
from pathlib import Path

import pytest
import rl_recipes

from megatron_octo.errors import ConfigError
from megatron_octo.rl import restart
from megatron_octo.rl.config import RLJob

JOB = RLJob(recipe=rl_recipes.on_trl(eval_sets=()), model=Path("model"), prompts=Path("prompts.jsonl"), eval_sets={})


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path


def tries(out: Path, *steps: int | None) -> list[int]:
    """The steps that these tries, one after the other, went back to."""
    went_back: list[int] = []
    for step in steps:
        restart.once(replace(JOB, restart_from=step), out, went_back.append)
    return went_back


def test_a_step_is_gone_back_to_once(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tries(out, None, 20, 20, None, 20, 10, 10) == [20, 10]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert said[0].startswith(
        "test: an earlier try with this recipe went back to step 20; this one goes on from the newest"
    )


def test_a_finished_run_may_go_back_anew(out: Path) -> None:
    restart.forget(out)
    assert tries(out, 20) == [20]
    restart.forget(out)
    assert tries(out, 20) == [20]


def test_a_refused_restart_is_not_remembered(out: Path) -> None:
    def refuse(step: int) -> None:
        restart.require_kept(step, [], out)

    with pytest.raises(ConfigError, match=r"no checkpoint of that step \(it has: none\)"):
        restart.once(replace(JOB, restart_from=20), out, refuse)
    assert tries(out, 20) == [20]


def test_another_recipe_goes_back_to_the_same_step_again(out: Path) -> None:
    """After a second alarm, with a smaller learning rate."""
    went_back: list[float] = []
    for rate in (1e-6, 1e-6, 5e-7, 5e-7):
        job = replace(JOB, recipe=rl_recipes.on_trl(eval_sets=(), learning_rate=rate), restart_from=20)
        restart.once(job, out, lambda _, rate=rate: went_back.append(rate))
    assert went_back == [1e-6, 5e-7]


@pytest.mark.parametrize(("newest", "said"), [(None, ""), (199, ""), (200, "nothing is left to train")])
def test_a_run_without_a_step_ahead_says_so(newest: int | None, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    restart.require_ahead(JOB.recipe, newest)
    assert said in capsys.readouterr().err


def test_a_run_that_has_come_further_than_it_should_is_refused() -> None:
    with pytest.raises(ConfigError, match="has come to step 210 and train_steps is 200; give at least 210, or go back"):
        restart.require_ahead(JOB.recipe, 210)
