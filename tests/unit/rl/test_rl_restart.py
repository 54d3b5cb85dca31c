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
    assert said[0].startswith("test: an earlier try went back to step 20; this one goes on from the newest checkpoint")


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
