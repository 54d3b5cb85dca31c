"""Going back to an earlier step (`restart_from`), once however often the same unfinished command is run again, and going on."""

import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from megatron_octo import config, jsonl
from megatron_octo.errors import ConfigError
from megatron_octo.rl.config import ReinforcementLearning, RLJob

#: Below OUT/logs: the steps that the run went back to since it was last finished, and with which recipe.
FILE = "restarts.jsonl"


def once(job: RLJob, out: Path, go_back: Callable[[int], None]) -> None:
    """Go back to `job.restart_from`, unless an earlier try with this recipe did: what it made since is not lost."""
    step, file = job.restart_from, out / "logs" / FILE
    if step is None:
        return
    this = {"step": step, "recipe": hashlib.sha256(config.dumps(job.recipe).encode()).hexdigest()}
    if this in jsonl.read(file):
        print(
            f"{job.recipe.name}: an earlier try with this recipe went back to step {step}; this one goes on from the newest "
            f"checkpoint (remove {file} to go back to it again)",
            file=sys.stderr,
        )
        return
    go_back(step)
    jsonl.append(file, [this])


def forget(out: Path) -> None:
    """A finished run with something changed may go back anew."""
    (out / "logs" / FILE).unlink(missing_ok=True)


def require_ahead(recipe: ReinforcementLearning, newest: int | None) -> None:
    """Raises `ConfigError` where the newest checkpoint is of a step after the recipe's last; says it where it is of the last."""
    if newest is None or newest < recipe.train_steps:
        return
    if newest > recipe.train_steps:
        raise ConfigError(
            f"the run has come to step {newest} and train_steps is {recipe.train_steps}; give at least {newest}, or go back with "
            "restart_from"
        )
    print(f"{recipe.name}: all {newest} steps are made; nothing is left to train", file=sys.stderr)


def require_kept(step: int, kept: Sequence[int], directory: Path) -> None:
    """Raises `ConfigError` where the step to go back to has no checkpoint."""
    if step not in kept:
        raise ConfigError(
            f"restart_from={step}: {directory} has no checkpoint of that step (it has: {', '.join(map(str, kept)) or 'none'}); "
            "name one it has, or leave restart_from out to go on from the newest"
        )
