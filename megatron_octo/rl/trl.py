"""GRPO on one machine with Hugging Face TRL 1.16: a recipe and a local model in, a trained model out. CPU or one GPU.

A step of ours is one batch of prompts; TRL's `global_step` counts optimizer updates. TRL samples through `rollout_func`, our
loop in generation.py: the response cap of the step, stop strings and prompt tokens are then the same code as in evaluation,
and a step's samples depend on (seed, step, weights) alone, so a resumed run repeats the unbroken one.
"""

import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import datasets
import torch
import transformers
import trl
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from megatron_octo import generation, progress
from megatron_octo.errors import ConfigError, CorpusError
from megatron_octo.grading import grade_all
from megatron_octo.questions import Question
from megatron_octo.rl import journal
from megatron_octo.rl.config import ReinforcementLearning, RLJob
from megatron_octo.rl.rewards import boxed_reward
from megatron_octo.templates import render

METRICS, MODEL, CHECKPOINTS = "metrics.jsonl", "model", "checkpoints"
#: Written last into a checkpoint, so its presence means that the checkpoint is whole.
TRAINER_STATE = "trainer_state.json"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished run did."""

    optimizer_updates: int
    #: Steps in which some group had different rewards, that is, in which there was something to learn.
    steps_with_spread: int
    weights_changed: bool
    questions: int
    #: Questions left out because their prompt is longer than `max_prompt_tokens`.
    dropped_questions: int


def train(
    job: RLJob, *, questions: Sequence[Question], eval_sets: Mapping[str, Sequence[Question]], out: Path
) -> Outcome:
    """Train, or continue from the newest whole checkpoint below `out`. Leaves the model in OUT/model."""
    _silence_libraries()
    recipe = job.recipe
    tokenizer = generation.load_tokenizer(job.model)
    # fp32 weights everywhere: at a learning rate of 1e-6, updates of bf16 weights round to nothing.
    model = generation.load_model(job.model, torch.float32)
    _check_context(recipe, model)
    kept = _short_enough(recipe, tokenizer, questions)
    before = _fingerprint(model)
    trainer = _trainer(job, model, tokenizer, kept, out)
    _run(job, trainer, eval_sets, out)
    _save(model, tokenizer, out / MODEL)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return Outcome(
        optimizer_updates=trainer.state.global_step,
        steps_with_spread=sum(row.get("groups_without_spread", 1) < 1 for row in journal.read(out / METRICS)),
        weights_changed=_fingerprint(model) != before,
        questions=len(kept),
        dropped_questions=len(questions) - len(kept),
    )


def _trainer(
    job: RLJob,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    out: Path,
) -> "_Trainer":
    trainer = _Trainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=boxed_reward,
        rollout_func=_Rollouts(job),
        args=_arguments(job, out / CHECKPOINTS),
        train_dataset=_prompt_sequence(job.recipe, questions),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _run(job: RLJob, trainer: "_Trainer", eval_sets: Mapping[str, Sequence[Question]], out: Path) -> None:
    """All steps that are left."""
    checkpoint = _newest_checkpoint(out / CHECKPOINTS)
    resumed_from = _updates_of(checkpoint) // job.recipe.updates_per_step if checkpoint else None
    metrics = journal.Journal(out / METRICS, resumed_from=resumed_from)
    with progress.bar(
        f"rl {job.recipe.name}", total=job.recipe.train_steps, unit="steps", done=resumed_from or 0
    ) as advance:
        trainer.add_callback(_Recorder(job=job, trainer=trainer, metrics=metrics, eval_sets=eval_sets, advance=advance))
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def _arguments(job: RLJob, directory: Path) -> trl.GRPOConfig:
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
        shuffle_dataset=False,  # `_prompt_sequence` did it
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="constant",  # [RLCODE], no warmup
        optim="adamw_torch",
        max_grad_norm=recipe.max_grad_norm,
        loss_type=recipe.loss.value,
        epsilon=recipe.clip_epsilon,
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
        save_total_limit=2,  # a kill may cut the newer one
        disable_tqdm=True,
        report_to="none",
    )


def _prompt_sequence(recipe: ReinforcementLearning, questions: Sequence[Question]) -> datasets.Dataset:
    """The prompts of all steps in order: epoch after epoch, each shuffled by the seed."""
    rng = Random(recipe.seed)
    order: list[Question] = []
    while len(order) < recipe.train_steps * recipe.prompts_per_step:
        order += rng.sample(list(questions), len(questions))
    order = order[: recipe.train_steps * recipe.prompts_per_step]
    prompts = [render(recipe.template, each.question) for each in order]
    return datasets.Dataset.from_dict({"prompt": prompts, "answer": [each.answer for each in order]})


def _short_enough(
    recipe: ReinforcementLearning, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]
) -> list[Question]:
    def length(question: Question) -> int:
        return len(generation.prompt_ids(tokenizer, render(recipe.template, question.question)))

    kept = [question for question in questions if length(question) <= recipe.max_prompt_tokens]
    if not kept:
        raise CorpusError(
            f"all {len(questions)} prompts are longer than max_prompt_tokens={recipe.max_prompt_tokens}; raise it"
        )
    return kept


def _check_context(recipe: ReinforcementLearning, model: PreTrainedModel) -> None:
    longest = recipe.max_prompt_tokens + _longest_response(recipe)
    context = model.config.max_position_embeddings
    if longest > context:
        raise ConfigError(
            f"prompts of {recipe.max_prompt_tokens} and responses of {_longest_response(recipe)} tokens need {longest} positions, "
            f"the model has {context}; shorten length_schedule or max_prompt_tokens"
        )


def _longest_response(recipe: ReinforcementLearning) -> int:
    return max(stage.max_response_tokens for stage in recipe.length_schedule)


class _Trainer(trl.GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer without what it does unasked: reporting home, and a model card in every checkpoint."""

    def _send_telemetry(self) -> None:
        pass

    def create_model_card(self, *_: Any, **__: Any) -> None:
        pass


class _Rollouts:
    """TRL's `rollout_func`: responses for one step's prompts, each of which comes `samples_per_prompt` times."""

    def __init__(self, job: RLJob) -> None:
        self._job = job

    def __call__(self, prompts: list[str], trainer: _Trainer) -> dict[str, Any]:
        recipe = self._job.recipe
        step = trainer.state.global_step // recipe.updates_per_step
        responses = generation.generate(
            trainer.model,
            trainer.processing_class,
            prompts,
            max_new_tokens=recipe.max_response_tokens(step),
            temperature=recipe.temperature,
            top_p=recipe.top_p,
            batch_size=self._job.generation_batch_responses,
            seed=Random(f"{recipe.seed}/{step}").getrandbits(63),
        )
        return {
            "prompt_ids": [response.prompt_ids for response in responses],
            "completion_ids": [response.token_ids for response in responses],
            "logprobs": None,  # TRL computes them with the weights it is about to train
            "finished": [response.finished for response in responses],  # handed on to the reward
        }


@dataclass(eq=False, kw_only=True)
class _Recorder(transformers.TrainerCallback):
    """Metrics, evaluations and progress of every step."""

    job: RLJob
    trainer: _Trainer
    metrics: journal.Journal
    eval_sets: Mapping[str, Sequence[Question]]
    advance: progress.Advance
    started: float = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0:
            self._evaluate(step=0)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.job.recipe.updates_per_step == 0:
            self.started = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "reward" not in logs:  # the summary at the end
            return
        recipe = self.job.recipe
        step = state.global_step // recipe.updates_per_step
        self.metrics.append(journal.training_row(step, logs, time.perf_counter() - self.started))
        self.advance(1, note=f"accuracy {logs['accuracy']:.3f}, {logs['completions/mean_length']:.0f} tokens")
        if step % recipe.eval_interval == 0 or step == recipe.train_steps:
            self._evaluate(step)

    def _evaluate(self, step: int) -> None:
        """Greedy, at the longest cap of the schedule, so that the points of a curve compare."""
        recipe = self.job.recipe
        for name, questions in self.eval_sets.items():
            responses = generation.generate(
                self.trainer.model,
                self.trainer.processing_class,
                [render(recipe.template, each.question) for each in questions],
                max_new_tokens=_longest_response(recipe),
                batch_size=self.job.generation_batch_responses,
            )
            grades = grade_all([each.text for each in responses], [each.answer for each in questions])
            self.metrics.append(journal.evaluation_row(step, name, responses, grades))


def _newest_checkpoint(directory: Path) -> Path | None:
    whole = [path.parent for path in directory.glob(f"checkpoint-*/{TRAINER_STATE}")]
    return max(whole, key=_updates_of, default=None)


def _updates_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


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
