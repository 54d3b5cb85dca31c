"""RL settings: what a step is, and what is refused."""

from pathlib import Path

import pytest
from rl_recipes import on_openrlhf, on_trl

from megatron_octo.errors import ConfigError
from megatron_octo.rl.config import (
    Algorithm,
    Critic,
    KLForm,
    LengthStage,
    Loss,
    MismatchCorrection,
    ReinforcementLearning,
    RLJob,
)
from megatron_octo.rl.context import check_context
from megatron_octo.rl.placement import Colocation, Needed, Placement


def test_updates_per_step() -> None:
    assert on_trl().updates_per_step == 2


@pytest.mark.parametrize(("step", "cap"), [(0, 2048), (99, 2048), (100, 4096), (199, 4096)])
def test_the_length_schedule_counts_steps_from_0(step: int, cap: int) -> None:
    assert on_trl().max_response_tokens(step) == cap


def test_prompt_and_response_fit_the_models_positions() -> None:
    assert on_trl().longest_sequence_tokens == 4496
    check_context(on_trl(), 4496)
    with pytest.raises(
        ConfigError, match="prompts of 400 and responses of 4096 tokens need 4496 positions, the model has 4495"
    ):
        check_context(on_trl(), 4495)


def test_gpus_go_to_the_models_that_the_recipe_has() -> None:
    assert on_openrlhf().needed_gpus == Needed(actor=8, reference=0, critic=0, engines=8, total=8)
    ppo = on_openrlhf(kl_coef=0.1, algorithm=Algorithm.PPO, critic=Critic())
    assert ppo.needed_gpus == Needed(actor=8, reference=8, critic=8, engines=8, total=8)


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
        on_trl(**changes)


def job(**changes: object) -> RLJob:
    settings: dict = {
        "recipe": on_trl(), "model": Path("m"), "prompts": Path("p"), "eval_sets": {"math500": Path("e")}
    }  # fmt: skip
    return RLJob(**(settings | changes))


def test_every_evaluation_set_needs_a_file() -> None:
    with pytest.raises(ConfigError, match="evaluated on math500, files are given for gsm8k"):
        job(eval_sets={"gsm8k": Path("e")})


def test_micro_batches_divide_a_mini_batch() -> None:
    assert job(micro_batch_responses=256)
    with pytest.raises(ConfigError, match="does not divide the 1024 responses"):
        job(micro_batch_responses=100)


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
    assert on_openrlhf()
    with pytest.raises(ConfigError, match=message):
        on_openrlhf(**changes)


def test_reinforce_plus_plus_needs_no_group() -> None:
    assert on_openrlhf(algorithm=Algorithm.REINFORCE_PLUS_PLUS, samples_per_prompt=1)


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
        on_trl(**changes)


@pytest.mark.parametrize(
    ("changed", "on_trl_too", "on_openrlhf_too"),
    [
        ({"recipe.train_steps": (200, 300), "recipe.length_schedule": ([], [])}, True, True),
        ({"recipe.kl_coef": (0.0, 0.1), "recipe.clip_epsilon_high": (None, 0.28)}, True, True),
        ({"recipe.learning_rate": (1e-6, 5e-7)}, True, False),
        ({"recipe.train_steps": (200, 300), "recipe.seed": (1, 2)}, False, False),
    ],
)
def test_what_may_change_in_a_run_that_goes_on(changed: dict, on_trl_too: bool, on_openrlhf_too: bool) -> None:
    def goes_on(recipe: ReinforcementLearning) -> bool:
        job = RLJob(recipe=recipe, model=Path("model"), prompts=Path("prompts.jsonl"), eval_sets={})
        return job.continues(changed)

    assert (goes_on(on_trl(eval_sets=())), goes_on(on_openrlhf(eval_sets=()))) == (on_trl_too, on_openrlhf_too)
