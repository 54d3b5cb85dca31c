"""The GRPO family on one machine with Hugging Face TRL 1.16: a recipe and a local model in, a trained model out. CPU or one GPU.

A step of ours is one batch of prompts; TRL's `global_step` counts optimizer updates. A resumed run repeats the unbroken one.

    OUT/model, OUT/metrics.jsonl, OUT/alarms.jsonl      results (stage.py)
    OUT/checkpoints                                     the newest `keep_checkpoints`; they stay, for a longer run and `restart_from`
    OUT/logs/rollouts.jsonl                             every sampled response in numbers
"""

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
import trl
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from megatron_octo import generation, progress
from megatron_octo.questions import Question
from megatron_octo.rl import prompts, restart
from megatron_octo.rl.config import Algorithm, Loss, ReinforcementLearning, RLJob
from megatron_octo.rl.context import check_context
from megatron_octo.rl.journal import Journal
from megatron_octo.rl.prompts import Prompt
from megatron_octo.rl.stage import ALARMS, METRICS, MODEL, TENSORBOARD, Trained, outcome
from megatron_octo.rl.trl_checkpoints import Checkpoints
from megatron_octo.rl.trl_recorder import Recorder
from megatron_octo.rl.trl_sampling import Sampling
from megatron_octo.rl.watch import AlarmWatch

CHECKPOINTS, ROLLOUTS = "checkpoints", "logs/rollouts.jsonl"
#: A kill may cut the newest checkpoint.
FEWEST_CHECKPOINTS = 2

#: What TRL divides a reward less its group's mean by: the deviation of the group, of the batch, or nothing.
SCALE = {
    Algorithm.GRPO: "group",
    Algorithm.DR_GRPO: "none",
    Algorithm.RLOO: "none",
    # The deviation of the batch's rewards, where OpenRLHF takes that of the rewards less their group's mean.
    Algorithm.REINFORCE_PLUS_PLUS_BASELINE: "batch",
}
LOSSES = {Loss.TOKEN_MEAN: "dapo", Loss.SEQUENCE_MEAN: "grpo", Loss.FIXED_LENGTH: "dr_grpo"}


def train(job: RLJob, *, asked: Sequence[Question], eval_sets: Mapping[str, Sequence[Question]], out: Path) -> Trained:
    """Train, or continue from the newest whole checkpoint below `out`, or from `job.restart_from`. Leaves the model in OUT/model.

    Raises:
        ConfigError: the model has too few positions, the reward cannot be loaded, or `restart_from` has no checkpoint, or a checkpoint
            is of a step after the last.
        CorpusError: every prompt is too long.
        OctoError: there was something to learn and the weights are what they were.
    """
    _silence_libraries()
    tokenizer = generation.load_tokenizer(job.model)
    # fp32 weights everywhere: at a learning rate of 1e-6, updates of bf16 weights round to nothing.
    model = generation.load_model(job.model, torch.float32)
    check_context(job.recipe, model.config.max_position_embeddings)
    prepared = prompts.prepare(job.recipe, asked, tokenizer)
    before = _fingerprint(model)
    sampling = Sampling(job=job, file=out / ROLLOUTS)
    trainer = _trainer(job, model, tokenizer, prepared.sequence, sampling, out)
    _run(job, trainer, sampling, eval_sets, out)
    trained = outcome(job, out, prepared, weights_changed=_fingerprint(model) != before)
    _save(model, tokenizer, out / MODEL)
    return trained


def _trainer(
    job: RLJob,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequence: Sequence[Prompt],
    sampling: Sampling,
    out: Path,
) -> "_Trainer":
    columns = {
        "prompt": [prompt.text for prompt in sequence],
        "answer": [prompt.answer for prompt in sequence],
        "number": [prompt.number for prompt in sequence],
    }
    trainer = _Trainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=sampling.reward,
        rollout_func=sampling.sample,
        args=arguments(job, out / CHECKPOINTS),
        train_dataset=datasets.Dataset.from_dict(columns),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _run(
    job: RLJob, trainer: "_Trainer", sampling: Sampling, eval_sets: Mapping[str, Sequence[Question]], out: Path
) -> None:
    """All steps that are left."""
    recipe = job.recipe
    checkpoints = Checkpoints(directory=out / CHECKPOINTS, updates_per_step=recipe.updates_per_step)
    restart.once(job, out, checkpoints.forget_after)
    step = max(checkpoints.steps(), default=None)
    restart.require_ahead(recipe, step)
    sampling.forget_after(step or 0)
    with (
        progress.bar(f"rl {recipe.name}", total=recipe.train_steps, unit="steps", done=step or 0) as advance,
        contextlib.closing(Journal(out / METRICS, resumed_from=step, tensorboard=out / TENSORBOARD)) as metrics,
    ):
        recorder = Recorder(
            job=job,
            trainer=trainer,
            sampling=sampling,
            metrics=metrics,
            alarms=AlarmWatch(recipe.name, recipe.alarms, out / ALARMS, resumed_from=step),
            checkpoints=checkpoints,
            eval_sets={name: prompts.render_all(recipe, asked, eval_set=name) for name, asked in eval_sets.items()},
            advance=advance,
        )
        trainer.add_callback(recorder)
        trainer.train(resume_from_checkpoint=None if step is None else str(checkpoints.of(step)))


def arguments(job: RLJob, directory: Path) -> trl.GRPOConfig:
    """The recipe in TRL's words. Its batches count responses, ours prompts."""
    recipe = job.recipe
    on_gpu = torch.cuda.is_available()
    mini_batch = recipe.mini_batch_prompts * recipe.samples_per_prompt
    micro_batch = job.micro_batch_responses or mini_batch
    updates = recipe.updates_per_step
    return trl.GRPOConfig(
        output_dir=str(directory),
        # One rollout batch feeds `updates` optimizer updates, each of which accumulates whole micro-batches.
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=mini_batch // micro_batch,
        steps_per_generation=mini_batch // micro_batch * updates,
        num_generations=recipe.samples_per_prompt,
        max_steps=recipe.train_steps * updates,
        shuffle_dataset=False,  # `prompts.prepare` did it
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="constant",  # [RLCODE], no warmup
        optim="adamw_torch",
        max_grad_norm=recipe.max_grad_norm,
        scale_rewards=SCALE[recipe.algorithm],
        reward_weights=[_reward_weight(recipe)],
        loss_type=LOSSES[recipe.loss],
        epsilon=recipe.clip_epsilon,
        epsilon_high=recipe.clip_epsilon_high,
        beta=recipe.kl_coef,
        use_bias_correction_kl=False,  # verl's low_var_kl has no importance weight [RLCODE]
        temperature=recipe.temperature,  # also divides the logits the loss is computed from
        seed=recipe.seed,
        use_cpu=not on_gpu,
        bf16=on_gpu,
        gradient_checkpointing=on_gpu,
        dataloader_pin_memory=on_gpu,
        logging_steps=updates,
        save_steps=recipe.save_interval * updates,
        save_total_limit=max(FEWEST_CHECKPOINTS, recipe.keep_checkpoints),
        disable_tqdm=True,
        report_to="none",
    )


def _reward_weight(recipe: ReinforcementLearning) -> float:
    """RLOO by a factor: a reward less the mean of the other n - 1 is n / (n - 1) of the reward less the mean of all n."""
    samples = recipe.samples_per_prompt
    return samples / (samples - 1) if recipe.algorithm is Algorithm.RLOO else 1.0


class _Trainer(trl.GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer without what it does unasked: reporting home, and a model card in every checkpoint."""

    def _send_telemetry(self) -> None:
        pass

    def create_model_card(self, *_: Any, **__: Any) -> None:
        pass


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _fingerprint(model: PreTrainedModel) -> list[float]:
    """A number per parameter that any update changes: the sum of its entries in float64."""
    return [float(parameter.detach().double().sum()) for parameter in model.parameters()]


def _silence_libraries() -> None:
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", message="You are using 'rollout_func'")
    # TRL 1.16 still says gradient_checkpointing where transformers 5.23 wants activation_checkpointing.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing")
