"""RL settings: what a step is, and what is refused."""

from pathlib import Path

import pytest

from megatron_octo.errors import ConfigError
from megatron_octo.rl.config import Engine, LengthStage, ReinforcementLearning, RLJob
from megatron_octo.templates import Template


def recipe(**changes: object) -> ReinforcementLearning:
    settings: dict = {
        "name": "test", "init_from": "test", "engine": Engine.TRL, "prompts": "test", "template": Template.SIMPLE,
        "prompts_per_step": 128, "samples_per_prompt": 16, "mini_batch_prompts": 64, "train_steps": 200,
        "learning_rate": 1e-6, "kl_coef": 0.0, "temperature": 1.0, "top_p": 1.0, "max_prompt_tokens": 400,
        "length_schedule": (LengthStage(from_step=0, max_response_tokens=2048), LengthStage(from_step=100, max_response_tokens=4096)),
        "clip_epsilon": 0.2, "max_grad_norm": 1.0, "eval_interval": 4, "eval_sets": ("math500",),
    }  # fmt: skip
    return ReinforcementLearning(**(settings | changes))


def test_updates_per_step() -> None:
    assert recipe().updates_per_step == 2


@pytest.mark.parametrize(("step", "cap"), [(0, 2048), (99, 2048), (100, 4096), (199, 4096)])
def test_the_length_schedule_counts_steps_from_0(step: int, cap: int) -> None:
    assert recipe().max_response_tokens(step) == cap


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mini_batch_prompts": 48}, "128 does not divide by mini_batch_prompts 48"),
        ({"samples_per_prompt": 1}, "at least 2"),
        ({"length_schedule": (LengthStage(from_step=5, max_response_tokens=1),)}, "first must be 0"),
    ],
)
def test_impossible_recipes_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(**changes)


def job(**changes: object) -> RLJob:
    settings: dict = {
        "recipe": recipe(), "model": Path("m"), "prompts": Path("p"), "eval_sets": {"math500": Path("e")}
    }  # fmt: skip
    return RLJob(**(settings | changes))


def test_every_evaluation_set_needs_a_file() -> None:
    with pytest.raises(ConfigError, match="evaluated on math500, files are given for gsm8k"):
        job(eval_sets={"gsm8k": Path("e")})


def test_micro_batches_divide_a_mini_batch() -> None:
    assert job(micro_batch_responses=256)
    with pytest.raises(ConfigError, match="does not divide the 1024 responses"):
        job(micro_batch_responses=100)
