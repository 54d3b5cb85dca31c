"""RL settings: what a step is, and what is refused."""

from pathlib import Path

import pytest

from megatron_octo.errors import ConfigError
from megatron_octo.rl.config import (
    Algorithm,
    Critic,
    Engine,
    KLForm,
    LengthStage,
    Loss,
    MismatchCorrection,
    ReinforcementLearning,
    RLJob,
)
from megatron_octo.rl.placement import Colocation, Placement
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


def on_the_cluster(**changes: object) -> ReinforcementLearning:
    return recipe(**({"engine": Engine.OPENRLHF, "placement": Placement()} | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"placement": None}, "runs on OpenRLHF and has no placement"),
        ({"loss": Loss.FIXED_LENGTH}, "has no loss=fixed-length"),
        ({"save_interval": 30}, "changes at step 100, where no checkpoint is saved"),
        ({"algorithm": Algorithm.PPO}, "PPO has a critic"),
        ({"critic": Critic()}, "algorithm=grpo with critic"),
        ({"clip_epsilon_high": 0.1}, "clip_epsilon_high 0.1 is below"),
        ({"kl_coef": -0.1}, "must be 0"),
        ({"algorithm": Algorithm.REINFORCE_PLUS_PLUS, "samples_per_prompt": 1, "dynamic_sampling": True}, "at least 2"),
        (
            {"kl_coef": 0.1, "placement": Placement(colocation=Colocation.NONE, rollout_gpus=7)},
            "leave 1 for 2 separate models",
        ),
    ],
)
def test_what_openrlhf_cannot_run_is_refused(changes: dict, message: str) -> None:
    assert on_the_cluster()
    with pytest.raises(ConfigError, match=message):
        on_the_cluster(**changes)


def test_reinforce_plus_plus_needs_no_group() -> None:
    assert on_the_cluster(algorithm=Algorithm.REINFORCE_PLUS_PLUS, samples_per_prompt=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": Algorithm.PPO, "critic": Critic()}, "algorithm=ppo"),
        ({"algorithm": Algorithm.REINFORCE_PLUS_PLUS}, "algorithm=reinforce"),
        ({"dynamic_sampling": True}, "dynamic_sampling"),
        ({"kl_coef": 0.1, "kl_form": KLForm.REWARD}, "kl_form=reward"),
        ({"mismatch_correction": MismatchCorrection.MASKED}, "mismatch_correction"),
        ({"placement": Placement()}, "placement"),
    ],
)
def test_what_trl_cannot_run_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=f"trl engine has no {message}"):
        recipe(**changes)
