"""An RL stage on one machine as a process: `python -m megatron_octo.rl.run JOB.json OUT`.

Continues an unfinished run from OUT/checkpoints; stage.py says what it leaves.
"""

from pathlib import Path
from typing import Any

from megatron_octo import process
from megatron_octo.errors import ConfigError
from megatron_octo.rl.config import Engine, RLJob
from megatron_octo.rl.stage import Trained, run_stage


def run(job: RLJob, out: Path, force: bool) -> None:
    """Train on verifiable rewards on this machine. Raises `ConfigError` for a recipe of the cluster's engine."""
    if job.recipe.engine is not Engine.TRL:
        raise ConfigError(
            f"{job.recipe.name} has engine={job.recipe.engine.value}, which python -m megatron_octo.rl.openrlhf_run runs; set "
            "engine=trl and no placement to train on this machine"
        )
    run_stage(job, out, force=force, train=_train)


def _train(job: RLJob, **given: Any) -> Trained:
    # Not at the top: a finished stage and a wrong engine answer without torch.
    from megatron_octo.rl import trl

    return trl.train(job, **given)


if __name__ == "__main__":
    raise SystemExit(process.main(run, RLJob))
