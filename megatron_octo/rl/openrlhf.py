"""An RL recipe as the command lines of OpenRLHF 0.11.2: one per response cap, long option names only.

OpenRLHF has no length schedule, so each cap is a run of its own that goes on from the checkpoint of the one before. Its
prompt file holds the prompts of all steps up to its end: OpenRLHF skips as many as its checkpoint has used and ends by itself.
It draws them in an order of its own; openrlhf_prompt_files.py sees to it that a later stage gets new ones.
What it accepts and then silently does otherwise is refused here; `openrlhf_parser` asks its own parser about the rest.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from megatron_octo.errors import ConfigError
from megatron_octo.rl.config import Algorithm, Critic, Engine, KLForm, Loss, MismatchCorrection, ReinforcementLearning
from megatron_octo.rl.placement import Colocation, Placement

PROGRAM = "openrlhf.cli.train_ppo_ray"
#: Folder of the event files under `Files.tensorboard`; OpenRLHF's own default is the time of day.
TENSORBOARD_RUN = "openrlhf"
ESTIMATORS = {
    Algorithm.GRPO: "group_norm",
    Algorithm.DR_GRPO: "dr_grpo",
    Algorithm.RLOO: "rloo",
    Algorithm.REINFORCE_PLUS_PLUS: "reinforce",
    Algorithm.REINFORCE_PLUS_PLUS_BASELINE: "reinforce_baseline",
    Algorithm.PPO: "gae",
}
LOSSES = {Loss.TOKEN_MEAN: "token-mean", Loss.SEQUENCE_MEAN: "seq-mean-token-mean"}
CORRECTIONS = {MismatchCorrection.TRUNCATED: "clip", MismatchCorrection.MASKED: "mask"}
#: Ratios that are left alone: OpenRLHF's defaults, and IcePop's (written out, so that a new default changes nothing).
CORRECTION_BOUNDS = (0.5, 5.0)

#: True is a bare flag, None and False are left out.
Value = str | int | float | Path | tuple[float, ...] | None
Options = Mapping[str, Value]


@dataclass(frozen=True, kw_only=True)
class Files:
    """What a command reads and writes. Absolute: Ray's workers have other working directories."""

    #: Hugging Face directory of the starting model.
    model: Path
    #: JSONL of the prompts of all steps up to the stage's end.
    prompts: Path
    #: JSONL of all evaluation questions; None without evaluation.
    eval_sets: Path | None
    #: Python file with our `AgentExecutor`.
    agent: Path
    checkpoints: Path
    #: Hugging Face directory of the trained model.
    output: Path
    tensorboard: Path


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Steps `first_step` to `end_step` (excluded), with one response cap."""

    number: int
    first_step: int
    end_step: int
    #: Tokens of a response.
    cap: int


def stages(recipe: ReinforcementLearning) -> list[Stage]:
    """One stage per response cap that is reached before the last step."""
    reached = [each for each in recipe.length_schedule if each.from_step < recipe.train_steps]
    ends = [each.from_step for each in reached[1:]] + [recipe.train_steps]
    return [
        Stage(number=number, first_step=each.from_step, end_step=end, cap=each.max_response_tokens)
        for number, (each, end) in enumerate(zip(reached, ends, strict=True))
    ]


def command(recipe: ReinforcementLearning, stage: Stage, files: Files, *, resume: bool) -> list[str]:
    """The whole command, with this process's Python."""
    return [sys.executable, "-m", PROGRAM, *argv(recipe, stage, files, resume=resume)]


def argv(recipe: ReinforcementLearning, stage: Stage, files: Files, *, resume: bool) -> list[str]:
    """What follows the program: every option that matters, also where it is OpenRLHF's default.

    Raises:
        ConfigError: what OpenRLHF would accept and do otherwise.
    """
    if resume < (stage.first_step > 0):
        raise ConfigError(
            f"the stage with cap {stage.cap} goes on from step {stage.first_step}, and there is no checkpoint to resume; "
            "run the stages in their order"
        )
    placement = _placement(recipe)
    _check_batches(recipe, placement)
    _check_paths(files)
    groups: tuple[Options, ...] = (
        _data(recipe, stage, files),
        _rollouts(recipe),
        _evaluation(recipe, files),
        _algorithm(recipe),
        _optimizer(recipe),
        _critic(recipe.critic, recipe, files) if recipe.critic else {},
        _roles(recipe, placement),
        _engines(recipe, placement),
        _deepspeed(placement),
        _checkpoints(recipe, files, resume=resume),
        {"logger.logging_steps": 1, "logger.tensorboard_dir": files.tensorboard, "logger.wandb.run_name": TENSORBOARD_RUN},
    )  # fmt: skip
    return [word for group in groups for name, value in group.items() for word in _words(name, value)]


def _words(name: str, value: Value) -> Iterator[str]:
    if value is None or value is False:
        return
    yield f"--{name}"
    if value is not True:
        yield from map(str, value if isinstance(value, tuple) else (value,))


def _placement(recipe: ReinforcementLearning) -> Placement:
    if recipe.engine is not Engine.OPENRLHF or recipe.placement is None:
        raise ConfigError(
            f"{recipe.name} has engine={recipe.engine.value}; set engine=openrlhf and a placement to run on OpenRLHF"
        )
    return recipe.placement


def _check_batches(recipe: ReinforcementLearning, placement: Placement) -> None:
    """OpenRLHF rounds the responses per GPU down, and leaves out or never applies what is over."""
    gpus, ring = recipe.needed_gpus.actor, placement.ring_attention_size
    micro_batch = placement.micro_batch_responses if placement.max_tokens_per_gpu is None else 1
    responses = recipe.mini_batch_prompts * recipe.samples_per_prompt
    if responses % (gpus // ring * micro_batch):
        raise ConfigError(
            f"a mini-batch of {recipe.mini_batch_prompts} x {recipe.samples_per_prompt} responses does not divide over {gpus} "
            f"GPUs in rings of {ring}, {micro_batch} at a time; change nodes, rollout_gpus or "
            "micro_batch_responses"
        )


def _check_paths(files: Files) -> None:
    for path in (files.prompts, files.eval_sets):
        if path is not None and ("," in str(path) or "@" in str(path)):
            raise ConfigError(f"OpenRLHF splits the names of data files at , and @; give {path} a folder without them")


def _data(recipe: ReinforcementLearning, stage: Stage, files: Files) -> Options:
    return {
        "actor.model_name_or_path": files.model,
        "data.prompt_dataset": files.prompts,
        "data.prompt_split": "train",
        "data.input_key": "input",
        "data.label_key": "label",
        # The longest cap in every stage: evaluations use it throughout, and the agent keeps to the stage's in training.
        "data.max_len": recipe.longest_sequence_tokens,
        "rollout.max_new_tokens": stage.cap,
        "train.agent_func_path": files.agent,
        "train.seed": recipe.seed,
        "train.num_episodes": 1,
    }


def _rollouts(recipe: ReinforcementLearning) -> Options:
    return {
        "rollout.batch_size": recipe.prompts_per_step,
        "rollout.n_samples_per_prompt": recipe.samples_per_prompt,
        "rollout.temperature": recipe.temperature,
        "rollout.top_p": recipe.top_p,
        # OpenRLHF counts responses here, not prompts. A batch above one step's would train on every second step only.
        "train.batch_size": recipe.mini_batch_prompts * recipe.samples_per_prompt,
        "train.max_epochs": 1,
    }


def _evaluation(recipe: ReinforcementLearning, files: Files) -> Options:
    if files.eval_sets is None:
        return {}
    return {
        "eval.dataset": files.eval_sets,
        "eval.split": "train",  # the only split of a JSONL
        "eval.steps": recipe.eval_interval,
        "eval.temperature": 0.0,
        "eval.n_samples_per_prompt": 1,
    }


def _algorithm(recipe: ReinforcementLearning) -> Options:
    """Lengths are shaped by our reward and never by OpenRLHF's `reward.*`."""
    high = recipe.clip_epsilon if recipe.clip_epsilon_high is None else recipe.clip_epsilon_high
    kl_in_loss = recipe.kl_coef > 0 and recipe.kl_form is KLForm.LOSS
    mode = CORRECTIONS.get(recipe.mismatch_correction)
    return {
        "algo.advantage.estimator": ESTIMATORS[recipe.algorithm],
        "actor.eps_clip_low_high": (recipe.clip_epsilon, high),
        "actor.loss_agg_mode": LOSSES[recipe.loss],
        "actor.entropy_coef": 0.0,  # not none: entropy is logged
        "algo.kl.init_coef": recipe.kl_coef,  # 0: no reference model is loaded
        "algo.kl.use_loss": kl_in_loss,
        "algo.kl.estimator": "k3" if kl_in_loss else "k1",
        "algo.dynamic_filtering_enable": recipe.dynamic_sampling,
        "algo.dynamic_filtering_range": (0.0, 1.0) if recipe.dynamic_sampling else None,
        "algo.advantage.is_correction_level": "token" if mode else "off",
        "algo.advantage.is_correction_mode": mode,
        "algo.advantage.is_correction_threshold": CORRECTION_BOUNDS if mode else None,
    }


def _optimizer(recipe: ReinforcementLearning) -> Options:
    """Constant from the first step, as the learning rate of a stage does not know of the stages after it."""
    return {
        "actor.adam.lr": recipe.learning_rate,
        "actor.lr_scheduler": "constant",
        "actor.lr_warmup_ratio": 0.0,
        "actor.max_norm": recipe.max_grad_norm,
    }


def _critic(critic: Critic, recipe: ReinforcementLearning, files: Files) -> Options:
    return {
        "critic.model_name_or_path": files.model,
        "critic.adam.lr": critic.learning_rate,
        "critic.lr_scheduler": "constant",
        "critic.lr_warmup_ratio": 0.0,
        "critic.max_norm": recipe.max_grad_norm,
        "critic.value_clip": critic.value_clip,
        # OpenRLHF trains the policy where the step, counted from 0, is above this.
        "critic.freezing_steps": critic.warmup_steps - 1,
        "algo.advantage.gamma": critic.gamma,
        "algo.advantage.lambd": critic.gae_lambda,
    }


def _roles(recipe: ReinforcementLearning, placement: Placement) -> Options:
    needed = recipe.needed_gpus
    gpus = {"actor": needed.actor, "ref": needed.reference, "critic": needed.critic}
    options: dict[str, Value] = {
        "train.colocate_all": placement.colocation is Colocation.ALL,
        "train.colocate_actor_ref": placement.colocation is Colocation.ACTOR_REF,
    }
    for role, count in gpus.items():
        if count:
            nodes, per_node = placement.training_shape(count)
            options |= {f"{role}.num_nodes": nodes, f"{role}.num_gpus_per_node": per_node}
    return options


def _engines(recipe: ReinforcementLearning, placement: Placement) -> Options:
    needed = recipe.needed_gpus
    return {
        "vllm.num_engines": needed.engines // placement.engine_tensor_parallel_size,
        "vllm.tensor_parallel_size": placement.engine_tensor_parallel_size,
        "vllm.gpu_memory_utilization": placement.gpu_memory_utilization,
        "vllm.enforce_eager": placement.enforce_eager,
        "vllm.enable_prefix_caching": placement.enable_prefix_caching,
        "vllm.sync_backend": placement.sync_backend.value,
        "vllm.enable_sleep": placement.colocation is Colocation.ALL,
        "train.async_enable": placement.asynchronous,
        "train.async_queue_size": placement.async_queue_size if placement.asynchronous else None,
    }


def _deepspeed(placement: Placement) -> Options:
    by_tokens = placement.max_tokens_per_gpu is not None
    micro_batch = None if by_tokens else placement.micro_batch_responses
    return {
        "ds.zero_stage": placement.zero_stage,
        "ds.param_dtype": "bf16",
        "ds.adam_offload": placement.adam_offload,
        "ds.enable_sleep": placement.colocation is Colocation.ALL,
        "ds.packing_samples": placement.packing,
        "ds.attn_implementation": placement.attention,
        "ds.ring_attn_size": placement.ring_attention_size,
        "actor.gradient_checkpointing_enable": placement.gradient_checkpointing,
        "train.dynamic_batch_enable": by_tokens,
        "train.max_tokens_per_gpu": placement.max_tokens_per_gpu,
        "rollout.max_tokens_per_gpu": placement.max_tokens_per_gpu,
        "train.micro_batch_size": micro_batch,
        "rollout.micro_batch_size": micro_batch,
    }


def _checkpoints(recipe: ReinforcementLearning, files: Files, *, resume: bool) -> Options:
    return {
        "ckpt.output_dir": files.output,
        "ckpt.path": files.checkpoints,
        "ckpt.save_steps": recipe.save_interval,
        "ckpt.max_num": recipe.keep_checkpoints,
        # Otherwise the best evaluation is a checkpoint too, and, saved last, the one that is resumed.
        "ckpt.best_metric_key": "none",
        "ckpt.load_enable": resume,
    }
