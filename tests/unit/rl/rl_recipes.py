"""RL recipes with numbers of their own, one for each engine: the published ones are tuned now and then."""

from typing import Any

from megatron_octo.rl.config import Engine, LengthStage, ReinforcementLearning
from megatron_octo.rl.placement import Placement
from megatron_octo.templates import Template


def on_trl(**changes: Any) -> ReinforcementLearning:
    """200 steps of 128 prompts x 16 samples; at step 100 the cap goes from 2,048 to 4,096 tokens."""
    settings: dict[str, Any] = {
        "name": "test", "init_from": "test", "engine": Engine.TRL, "prompts": "test", "template": Template.SIMPLE,
        "prompts_per_step": 128, "samples_per_prompt": 16, "mini_batch_prompts": 64, "train_steps": 200,
        "learning_rate": 1e-6, "kl_coef": 0.0, "temperature": 1.0, "top_p": 1.0, "max_prompt_tokens": 400,
        "length_schedule": (LengthStage(from_step=0, max_response_tokens=2048), LengthStage(from_step=100, max_response_tokens=4096)),
        "clip_epsilon": 0.2, "max_grad_norm": 1.0, "eval_interval": 4, "eval_sets": ("math500",),
    }  # fmt: skip
    return ReinforcementLearning(**(settings | changes))


def on_openrlhf(**changes: Any) -> ReinforcementLearning:
    """The same on one node of eight GPUs."""
    return on_trl(**({"engine": Engine.OPENRLHF, "placement": Placement()} | changes))
