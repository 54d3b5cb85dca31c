"""An RL stage, whichever engine trains: what it reads, what it leaves, what it says, and when its result counts.

Every engine leaves

    OUT/model                               a Hugging Face directory
    OUT/metrics.jsonl, OUT/alarms.jsonl     a row per step and evaluation (metrics.py), a row per alarm
    OUT/logs/tensorboard                    the metrics once more
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from megatron_octo import artifacts, jsonl, questions
from megatron_octo.errors import OctoError
from megatron_octo.questions import Question
from megatron_octo.rl import restart, rewards
from megatron_octo.rl.config import RLJob

if TYPE_CHECKING:
    from megatron_octo.rl.prompts import Prepared

MODEL, METRICS, ALARMS = "model", "metrics.jsonl", "alarms.jsonl"
TENSORBOARD = "logs/tensorboard"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a finished run did."""

    optimizer_updates: int
    #: Steps in which some group had different rewards, that is, in which there was something to learn from comparing.
    steps_with_spread: int
    questions: int
    #: Questions left out because their prompt is longer than `max_prompt_tokens`.
    dropped_questions: int


class Train(Protocol):
    """An engine: trains, or goes on where an earlier try stopped, and leaves the files named above in `out`."""

    def __call__(
        self, job: RLJob, *, asked: Sequence[Question], eval_sets: Mapping[str, Sequence[Question]], out: Path
    ) -> Trained: ...


def run_stage(job: RLJob, out: Path, *, force: bool, train: Train) -> None:
    """Train on verifiable rewards, unless it is done."""
    with artifacts.stage(out, kind="rl", config=job, inputs=inputs(job), resumable=True, force=force) as stage:
        if stage.done:
            if job.restart_from is not None:
                print(_nothing_to_redo(job, out), file=sys.stderr)
            return
        print(_decided(job), file=sys.stderr, flush=True)
        (out / "logs").mkdir(exist_ok=True)
        trained = train(
            job,
            asked=questions.read(job.prompts),
            eval_sets={name: questions.read(path) for name, path in job.eval_sets.items()},
            out=out,
        )
        recipe = job.recipe
        rollouts = recipe.train_steps * recipe.prompts_per_step * recipe.samples_per_prompt
        stage.counts |= {"steps": recipe.train_steps, "rollouts": rollouts} | asdict(trained)
    restart.forget(out)


def inputs(job: RLJob) -> dict[str, Path]:
    """The files that decide the result."""
    function = job.recipe.reward.function
    files = {"template_file": job.recipe.template_file, "reward": function and rewards.file_of(function)}
    return (
        {"model": job.model, "prompts": job.prompts}
        | {f"eval/{name}": path for name, path in job.eval_sets.items()}
        | {name: path for name, path in files.items() if path}
    )


def outcome(job: RLJob, out: Path, prepared: "Prepared", *, weights_changed: bool) -> Trained:
    """What a run did, from its metrics; warns where there was nothing to learn.

    Raises:
        OctoError: no update was made, or the weights are what they were although there was something to learn.
    """
    recipe = job.recipe
    steps = [row for row in jsonl.read(out / METRICS) if "reward" in row]
    if not steps:
        raise OctoError(
            f"{recipe.name}: no optimizer update was made in {recipe.train_steps} steps; with dynamic sampling this happens when the "
            f"model solves all prompts or none; see {out / 'logs'}"
        )
    with_spread = sum((row["groups_without_spread"] or 0) < 1 for row in steps)
    if not with_spread and recipe.algorithm.compares_samples:
        print(
            f"warning: {recipe.name}: every group of {recipe.samples_per_prompt} samples got equal rewards at every step, so "
            "nothing was learned; the model solves all of the prompts or none",
            file=sys.stderr,
        )
    elif not weights_changed:
        raise OctoError(
            f"{recipe.name}: {len(steps)} steps were made and the weights did not change; learning_rate is {recipe.learning_rate:g}"
        )
    return Trained(
        optimizer_updates=len(steps) * recipe.updates_per_step,
        steps_with_spread=with_spread,
        questions=prepared.kept,
        dropped_questions=prepared.dropped,
    )


def _nothing_to_redo(job: RLJob, out: Path) -> str:
    return (
        f"{out} is finished, and the same recipe from step {job.restart_from} would give the same again: restart_from is ignored; "
        "change what it should do differently"
    )


def _decided(job: RLJob) -> str:
    recipe = job.recipe
    caps = ", ".join(f"{stage.max_response_tokens} from step {stage.from_step}" for stage in recipe.length_schedule)
    return (
        f"rl {recipe.name}: {recipe.train_steps} steps of {recipe.prompts_per_step} prompts x {recipe.samples_per_prompt} samples, "
        f"{recipe.updates_per_step} updates per step at {recipe.learning_rate:g}, response cap {caps}"
    )
