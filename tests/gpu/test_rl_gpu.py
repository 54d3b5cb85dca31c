"""GRPO through TRL on a GPU: ten steps end, and what they wrote is whole."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import runs
from runs import On

from megatron_octo.artifacts import read_mark
from megatron_octo.config import dumps

STEPS = 10


@pytest.mark.slow
def test_ten_steps_of_grpo(tmp_path: Path) -> None:
    for package in ("transformers", "trl", "datasets", "math_verify"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    import tiny_arithmetic

    model, questions = tiny_arithmetic.make(tmp_path)
    job = tiny_arithmetic.job(model, questions)
    recipe = dataclasses.replace(job.recipe, train_steps=STEPS, eval_interval=STEPS, save_interval=STEPS)
    config = tmp_path / "rl.json"
    config.write_text(dumps(dataclasses.replace(job, recipe=recipe)))
    runs.run_module(On.GPU, "megatron_octo.rl.run", config, tmp_path / "rl")

    rows = [json.loads(line) for line in (tmp_path / "rl" / "metrics.jsonl").read_text().splitlines()]
    rewards = {row["step"]: row["reward"] for row in rows if "reward" in row}
    assert list(rewards) == list(range(1, STEPS + 1))
    # Sampling of a model that knows about half of the sums; rewards lie where they did on the CPU, give or take.
    assert all(math.isfinite(reward) for reward in rewards.values())
    assert read_mark(tmp_path / "rl")["counts"]["steps"] == STEPS
    assert (tmp_path / "rl" / "model" / "model.safetensors").exists()
    assert tiny_arithmetic.accuracy(tmp_path / "rl" / "model") >= 0.3
