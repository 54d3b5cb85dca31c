"""Going back to an earlier step (`restart_from`): once, however often the same unfinished command is run again."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from megatron_octo import jsonl
from megatron_octo.errors import ConfigError
from megatron_octo.rl.config import RLJob

#: Below OUT/logs: the steps that the run went back to since it was last finished.
FILE = "restarts.jsonl"


def once(job: RLJob, out: Path, go_back: Callable[[int], None]) -> None:
    """Go back to `job.restart_from`, unless an earlier try of this run did: what it made since is not lost."""
    step, file = job.restart_from, out / "logs" / FILE
    if step is None:
        return
    if {"step": step} in jsonl.read(file):
        print(
            f"{job.recipe.name}: an earlier try went back to step {step}; this one goes on from the newest checkpoint "
            f"(remove {file} to go back to it again)",
            file=sys.stderr,
        )
        return
    go_back(step)
    jsonl.append(file, [{"step": step}])


def forget(out: Path) -> None:
    """A finished run with something changed may go back anew."""
    (out / "logs" / FILE).unlink(missing_ok=True)


def require_kept(step: int, kept: Sequence[int], directory: Path) -> None:
    """Raises `ConfigError` where the step to go back to has no checkpoint."""
    if step not in kept:
        raise ConfigError(
            f"restart_from={step}: {directory} has no checkpoint of that step (it has: {', '.join(map(str, kept)) or 'none'}); "
            "name one it has, or leave restart_from out to go on from the newest"
        )
