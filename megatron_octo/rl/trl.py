"""The GRPO family on one machine with Hugging Face TRL 1.16: a recipe and a local model in, a trained model out. CPU or one GPU.

A step of ours is one batch of prompts; TRL's `global_step` counts optimizer updates. TRL samples through `rollout_func`, our
loop in generation.py: the response cap of the step, stop strings and prompt tokens are then the same code as in evaluation,
and a step's samples depend on (seed, step, weights) alone, so a resumed run repeats the unbroken one.

    OUT/model, OUT/metrics.jsonl, OUT/alarms.jsonl      results
    OUT/checkpoints                                     the newest `keep_checkpoints`; they stay, for a longer run and `restart_from`
    OUT/logs/rollouts.jsonl, OUT/logs/tensorboard       every sampled response in numbers; the metrics once more
"""

import contextlib
import itertools
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import datasets
import torch
import transformers
import trl
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from megatron_octo import generation, progress
from megatron_octo.errors import ConfigError, OctoError
from megatron_octo.generation import Response
from megatron_octo.questions import Question
from megatron_octo.rl import journal, prompts, rollouts
from megatron_octo.rl.config import Algorithm, Loss, ReinforcementLearning, RLJob
from megatron_octo.rl.metrics import EngineLog, Row, evaluation_row, training_row
from megatron_octo.rl.prompts import Prompt
from megatron_octo.rl.rewards import Scorer, score_all
from megatron_octo.rl.rollouts import Rollout
from megatron_octo.rl.trl_checkpoints import Checkpoints
from megatron_octo.rl.watch import AlarmWatch

METRICS, ALARMS, MODEL, CHECKPOINTS = "metrics.jsonl", "alarms.jsonl", "model", "checkpoints"
LOGS, ROLLOUTS, TENSORBOARD = "logs", "rollouts.jsonl", "tensorboard"
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


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a finished run did."""

    optimizer_updates: int
    #: Steps in which some group had different rewards, that is, in which there was something to learn.
    steps_with_spread: int
    questions: int
    #: Questions left out because their prompt is longer than `max_prompt_tokens`.
    dropped_questions: int


def train(
    job: RLJob, *, questions: Sequence[Question], eval_sets: Mapping[str, Sequence[Question]], out: Path
) -> Trained:
    """Train, or continue from the newest whole checkpoint below `out`, or from `job.restart_from`. Leaves the model in OUT/model.

    Raises:
        ConfigError: the model has too few positions, the reward cannot be loaded, or `restart_from` has no checkpoint.
        CorpusError: every prompt is too long.
        OctoError: there was something to learn and the weights are what they were.
    """
    _silence_libraries()
    tokenizer = generation.load_tokenizer(job.model)
    # fp32 weights everywhere: at a learning rate of 1e-6, updates of bf16 weights round to nothing.
    model = generation.load_model(job.model, torch.float32)
    _check_context(job.recipe, model)
    prepared = prompts.prepare(job.recipe, questions, tokenizer)
    before = _fingerprint(model)
    sampling = _Sampling(job=job, file=_logs(out) / ROLLOUTS)
    trainer = _trainer(job, model, tokenizer, prepared.sequence, sampling, out)
    _run(job, trainer, sampling, eval_sets, out)
    trained = Trained(
        optimizer_updates=trainer.state.global_step,
        steps_with_spread=sum((row.get("groups_without_spread") or 0) < 1 for row in _training_rows(out)),
        questions=prepared.kept,
        dropped_questions=prepared.dropped,
    )
    if trained.steps_with_spread and _fingerprint(model) == before:
        rate = job.recipe.learning_rate
        raise OctoError(f"{job.recipe.name}: the weights did not change; learning_rate is {rate:g}")
    _save(model, tokenizer, out / MODEL)
    return trained


def _trainer(
    job: RLJob,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequence: Sequence[Prompt],
    sampling: "_Sampling",
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
    job: RLJob, trainer: "_Trainer", sampling: "_Sampling", eval_sets: Mapping[str, Sequence[Question]], out: Path
) -> None:
    """All steps that are left."""
    recipe = job.recipe
    checkpoints = Checkpoints(directory=out / CHECKPOINTS, updates_per_step=recipe.updates_per_step)
    if job.restart_from is not None:
        checkpoints.forget_after(job.restart_from)
    step = max(checkpoints.steps(), default=None)
    sampling.forget_after(step or 0)
    with (
        progress.bar(f"rl {recipe.name}", total=recipe.train_steps, unit="steps", done=step or 0) as advance,
        contextlib.closing(
            journal.Journal(out / METRICS, resumed_from=step, tensorboard=_logs(out) / TENSORBOARD)
        ) as metrics,
    ):
        recorder = _Recorder(
            job=job,
            trainer=trainer,
            sampling=sampling,
            metrics=metrics,
            alarms=AlarmWatch(recipe.name, recipe.alarms, out / ALARMS),
            checkpoints=checkpoints,
            eval_sets={name: prompts.render_all(recipe, questions) for name, questions in eval_sets.items()},
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


def _check_context(recipe: ReinforcementLearning, model: PreTrainedModel) -> None:
    longest = recipe.max_prompt_tokens + recipe.longest_response_tokens
    context = model.config.max_position_embeddings
    if longest > context:
        raise ConfigError(
            f"prompts of {recipe.max_prompt_tokens} and responses of {recipe.longest_response_tokens} tokens need {longest} "
            f"positions, the model has {context}; shorten length_schedule or max_prompt_tokens"
        )


class _Trainer(trl.GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer without what it does unasked: reporting home, and a model card in every checkpoint."""

    def _send_telemetry(self) -> None:
        pass

    def create_model_card(self, *_: Any, **__: Any) -> None:
        pass


@dataclass(eq=False, kw_only=True)
class _Sampling:
    """Responses and what they are worth, in training and evaluation; every one is noted in `file`."""

    job: RLJob
    file: Path
    #: Of the step under way.
    rollouts: Sequence[Rollout] = ()
    seconds_generation: float = 0.0
    seconds_grading: float = 0.0

    def __post_init__(self) -> None:
        self._scorer = Scorer(self.job.recipe.reward)

    def forget_after(self, step: int) -> None:
        """Drop what was sampled after a step. Evaluations of a step stand before the training of the next."""
        first = step * self.job.recipe.prompts_per_step
        found = rollouts.read(self.file) if self.file.exists() and step else ()
        kept = list(itertools.takewhile(lambda each: each.eval_set is not None or each.prompt < first, found))
        self.file.unlink(missing_ok=True)
        rollouts.append(self.file, kept)

    def sample(self, texts: list[str], trainer: _Trainer) -> dict[str, Any]:
        """TRL's `rollout_func`: responses for one step's prompts, each of which comes `samples_per_prompt` times."""
        recipe = self.job.recipe
        step = trainer.state.global_step // recipe.updates_per_step
        # What `Loss.FIXED_LENGTH` divides by until the next batch is sampled.
        trainer.max_completion_length = recipe.max_response_tokens(step)
        started = time.perf_counter()
        responses = generation.generate(
            trainer.model,
            trainer.processing_class,
            texts,
            max_new_tokens=recipe.max_response_tokens(step),
            temperature=recipe.temperature,
            top_p=recipe.top_p,
            batch_size=self.job.generation_batch_responses,
            seed=Random(f"{recipe.seed}/{step}").getrandbits(63),
            stop_strings=recipe.stop_strings,
        )
        self.seconds_generation = time.perf_counter() - started
        return {
            "prompt_ids": [response.prompt_ids for response in responses],
            "completion_ids": [response.token_ids for response in responses],
            "logprobs": None,  # TRL computes them with the weights it is about to train
            "response": responses,  # handed on to the reward
        }

    def reward(
        self, *, prompts: list[str], answer: list[str], number: list[int], response: list[Response], **arguments: Any
    ) -> list[float]:
        """TRL's reward function."""
        started = time.perf_counter()
        step = arguments["trainer_state"].global_step // self.job.recipe.updates_per_step
        asked = [Prompt(text=t, answer=a, number=n) for t, a, n in zip(prompts, answer, number, strict=True)]
        self.rollouts = self._graded(asked, response, self.job.recipe.max_response_tokens(step), eval_set=None)
        self.seconds_grading = time.perf_counter() - started
        return [rollout.reward for rollout in self.rollouts]

    def evaluate(self, name: str, asked: Sequence[Prompt], trainer: _Trainer) -> list[Rollout]:
        """Greedy, at the longest cap of the schedule, so that the points of a curve compare."""
        recipe = self.job.recipe
        responses = generation.generate(
            trainer.model,
            trainer.processing_class,
            [prompt.text for prompt in asked],
            max_new_tokens=recipe.longest_response_tokens,
            batch_size=self.job.generation_batch_responses,
            stop_strings=recipe.stop_strings,
        )
        return self._graded(asked, responses, recipe.longest_response_tokens, eval_set=name)

    def _graded(
        self, asked: Sequence[Prompt], responses: Sequence[Response], cap: int, *, eval_set: str | None
    ) -> list[Rollout]:
        tokens = [len(response.token_ids) for response in responses]
        finished = [response.finished for response in responses]
        scores = score_all(
            self._scorer,
            [response.text for response in responses],
            [prompt.answer for prompt in asked],
            tokens=tokens,
            finished=finished,
            cap=cap,
        )
        graded = [
            Rollout(prompt=prompt.number, eval_set=eval_set, tokens=length, finished=ended, **asdict(score))
            for prompt, length, ended, score in zip(asked, tokens, finished, scores, strict=True)
        ]
        rollouts.append(self.file, graded)
        return graded


@dataclass(eq=False, kw_only=True)
class _Recorder(transformers.TrainerCallback):
    """Metrics, evaluations, alarms and progress of every step."""

    job: RLJob
    trainer: _Trainer
    sampling: _Sampling
    metrics: journal.Journal
    alarms: AlarmWatch
    checkpoints: Checkpoints
    eval_sets: Mapping[str, Sequence[Prompt]]
    advance: progress.Advance
    started: float = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if state.global_step == 0:
            self._evaluate(step=0)
            return
        # A checkpoint brings its own; the recipe's may have been tuned since.
        state.save_steps = args.save_steps
        given["lr_scheduler"].base_lrs = [args.learning_rate] * len(given["optimizer"].param_groups)
        for group in given["optimizer"].param_groups:
            group["lr"] = args.learning_rate

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.job.recipe.updates_per_step == 0:
            self.started = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "reward" not in logs:  # the summary at the end
            return
        recipe = self.job.recipe
        step = state.global_step // recipe.updates_per_step
        row = training_row(step, self.sampling.rollouts, self._engine_log(logs))
        self.metrics.append(row)
        self.advance(1, note=f"accuracy {row['accuracy']:.3f}, {row['response_length']:.0f} tokens")
        if step % recipe.eval_interval == 0 or step == recipe.train_steps:
            self._evaluate(step)
        self.alarms.look(self.metrics.rows, saved=self.checkpoints.steps())

    def _engine_log(self, logs: Mapping[str, float]) -> EngineLog:
        seconds = time.perf_counter() - self.started
        generation_seconds, grading_seconds = self.sampling.seconds_generation, self.sampling.seconds_grading
        return EngineLog(
            entropy=logs.get("entropy"),
            kl=logs.get("kl"),
            clip_low=logs.get("clip_ratio/low_mean"),
            clip_high=logs.get("clip_ratio/high_mean"),
            clip=logs.get("clip_ratio/region_mean"),
            learning_rate=logs.get("learning_rate"),
            grad_norm=logs.get("grad_norm"),
            seconds=seconds,
            seconds_generation=generation_seconds,
            seconds_training=seconds - generation_seconds - grading_seconds,
        )

    def _evaluate(self, step: int) -> None:
        for name, asked in self.eval_sets.items():
            self.metrics.append(evaluation_row(step, name, self.sampling.evaluate(name, asked, self.trainer)))


def _training_rows(out: Path) -> list[Row]:
    return [row for row in journal.read(out / METRICS) if "reward" in row]


def _logs(out: Path) -> Path:
    (out / LOGS).mkdir(exist_ok=True)
    return out / LOGS


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
