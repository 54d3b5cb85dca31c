"""What OpenRLHF's workers are given to load; the sampling itself: tests/openrlhf."""

from pathlib import Path

import pytest
import rl_recipes

from megatron_octo import config
from megatron_octo.rl import openrlhf_agent
from megatron_octo.rl.config import Reward, RLJob


def test_a_reward_of_the_users_own_is_found_from_another_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    (here / "mine.py").write_text("def half(response, answer, **about):\n    return 0.5\n")
    recipe = rl_recipes.on_openrlhf(eval_sets=(), reward=Reward(function="mine.py:half"))
    job = RLJob(recipe=recipe, model=Path("model"), prompts=Path("prompts.jsonl"), eval_sets={})

    monkeypatch.chdir(here)
    agent = openrlhf_agent.write_files(here, job, rollouts=Path("rollouts"))
    monkeypatch.chdir(elsewhere)
    assert config.load(RLJob, here / "job.json").recipe.reward.function == f"{here}/mine.py:half"
    openrlhf_agent.Executor(job=here / "job.json", rollouts=here / "rollouts")  # which loads the function
    assert f"job=Path('{here}/job.json'), rollouts=Path('{here}/rollouts')" in agent.read_text()
