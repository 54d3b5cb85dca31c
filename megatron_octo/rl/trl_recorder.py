"""What is written down of a TRL run: a row of metrics per step, evaluations, alarms, progress."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import transformers
import trl

from megatron_octo import progress
from megatron_octo.rl.config import RLJob
from megatron_octo.rl.journal import Journal
from megatron_octo.rl.metrics import EngineLog, evaluation_row, training_row
from megatron_octo.rl.prompts import Prompt
from megatron_octo.rl.trl_checkpoints import Checkpoints
from megatron_octo.rl.trl_sampling import Sampling
from megatron_octo.rl.watch import AlarmWatch


@dataclass(eq=False, kw_only=True)
class Recorder(transformers.TrainerCallback):
    """Metrics, evaluations, alarms and progress of every step."""

    job: RLJob
    trainer: trl.GRPOTrainer
    sampling: Sampling
    metrics: Journal
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
            self.metrics.append(evaluation_row(step, name, self.sampling.evaluate(asked, self.trainer)))
