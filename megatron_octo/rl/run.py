"""An RL stage on one machine as a process: `python -m megatron_octo.rl.run JOB.json OUT`.

Leaves OUT/model (a Hugging Face directory) and OUT/metrics.jsonl; continues an unfinished run from OUT/checkpoints.
"""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_octo import artifacts, process, questions
from megatron_octo.errors import ConfigError, OctoError
from megatron_octo.rl.config import Engine, RLJob

if TYPE_CHECKING:
    from megatron_octo.rl.trl import Trained


def run(job: RLJob, out: Path, force: bool) -> None:
    """Train on verifiable rewards on this machine. Raises `ConfigError` for a recipe of the cluster's engine."""
    if job.recipe.engine is not Engine.TRL:
        raise ConfigError(
            f"{job.recipe.name} has engine={job.recipe.engine.value}, which python -m megatron_octo.rl.openrlhf_run runs; set "
            "engine=trl and no placement to train on this machine"
        )
    inputs = {"model": job.model, "prompts": job.prompts}
    inputs |= {f"eval/{name}": path for name, path in job.eval_sets.items()}
    with artifacts.stage(out, kind="rl", config=job, inputs=inputs, resumable=True, force=force) as stage:
        if stage.done:
            if job.restart_from is not None:
                print(_nothing_to_redo(job, out), file=sys.stderr)
            return
        # Not at the top: the grader's worker processes import this module again, and have no use for TRL (seconds).
        from megatron_octo.rl import trl

        print(_decided(job), file=sys.stderr, flush=True)
        trained = trl.train(
            job,
            questions=questions.read(job.prompts),
            eval_sets={name: questions.read(path) for name, path in job.eval_sets.items()},
            out=out,
        )
        _check(job, trained)
        rollouts = job.recipe.train_steps * job.recipe.prompts_per_step * job.recipe.samples_per_prompt
        stage.counts |= {"steps": job.recipe.train_steps, "rollouts": rollouts} | dataclasses.asdict(trained)


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


def _check(job: RLJob, trained: "Trained") -> None:
    """A run that did nothing is no result, unless there was nothing to learn from; that is said aloud."""
    if trained.optimizer_updates == 0:
        raise OctoError(f"{job.recipe.name}: no optimizer update was made; train_steps is {job.recipe.train_steps}")
    if trained.steps_with_spread == 0:
        print(
            f"warning: {job.recipe.name}: every group of {job.recipe.samples_per_prompt} samples got equal rewards at every "
            "step, so nothing was learned; the model solves all of the prompts or none",
            file=sys.stderr,
        )


if __name__ == "__main__":
    raise SystemExit(process.main(run, RLJob))
