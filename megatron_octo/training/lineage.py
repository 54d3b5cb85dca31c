"""Where the weights of a run come from: every run and imported model before it, the first one first.

    OUT/lineage.json     written when the run starts

A branch may leave a run that is still training, so this does not wait for a finished stage.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_octo import artifacts, config, units
from megatron_octo.errors import ConfigError
from megatron_octo.shards import TOKENIZER_SHA256
from megatron_octo.training.config import TrainingJob

FILE = "lineage.json"


@dataclass(frozen=True, kw_only=True)
class Ancestor:
    """A run, or an imported model, and the point at which its weights were taken."""

    name: str
    directory: str
    #: Steps of that run; 0 for an imported model.
    step: int
    #: Tokens trained on by then, over all runs before it.
    total_tokens: int
    #: Whether the optimizer's moments came along with the weights.
    optimizer_state: bool

    @property
    def spelled(self) -> str:
        if not self.step:
            return f"{self.name} (imported)"
        moments = "" if self.optimizer_state else ", optimizer reset"
        return f"{self.name} after {units.count(self.total_tokens)} tokens (step {self.step:,}{moments})"


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """What `lineage.json` holds."""

    name: str
    #: Of a step of this run: what its checkpoints' steps mean in tokens.
    tokens_per_step: int
    #: Of the shards read, and of every ancestor's.
    tokenizer_sha256: str
    ancestors: tuple[Ancestor, ...]

    @property
    def spelled(self) -> str:
        """`Llama-3.2-3B (imported) -> stable after 130B tokens (step 30,994)`."""
        return " -> ".join(ancestor.spelled for ancestor in self.ancestors) or "random weights"


def of_job(job: TrainingJob, *, tokenizer_sha256: str, step: int, total_tokens: int, carried: bool) -> Lineage:
    """The lineage of a new run: its parent's and the parent itself, left at `step` and `total_tokens`."""
    ancestors: tuple[Ancestor, ...] = ()
    if job.init_checkpoint is not None:
        parent = read(job.init_checkpoint)
        last = Ancestor(
            name=parent.name if parent is not None else job.recipe.init_from or job.init_checkpoint.name,
            directory=str(job.init_checkpoint),
            step=step,
            total_tokens=total_tokens,
            optimizer_state=carried,
        )
        ancestors = (*(parent.ancestors if parent is not None else ()), last)
    return Lineage(
        name=job.recipe.name,
        tokens_per_step=job.recipe.tokens_per_step,
        tokenizer_sha256=tokenizer_sha256,
        ancestors=ancestors,
    )


def branch_step(job: TrainingJob) -> int:
    """The parent's step at which a branch leaves it: whole steps, to the nearest.

    Raises `ConfigError` where the directory holds another run than the branch leaves.
    """
    branch, directory = job.recipe.branch_point, job.init_checkpoint
    assert branch is not None
    assert directory is not None
    parent = read(directory)
    if parent is None or parent.name != branch.parent:
        found = f"the run '{parent.name}'" if parent is not None else "an imported model"
        raise ConfigError(
            f"{job.recipe.name} leaves '{branch.parent}', and {directory} holds {found}; name the directory of '{branch.parent}'"
        )
    return math.floor(branch.at_tokens / parent.tokens_per_step + 0.5)


def write(out: Path, lineage: Lineage) -> None:
    artifacts.write_json(out / FILE, asdict(lineage))


def read(directory: Path) -> Lineage | None:
    """The lineage of a training run; None for an imported model, which has none. Raises `ConfigError` for a file not ours."""
    file = directory / FILE
    return config.from_dict(Lineage, json.loads(file.read_text())) if file.exists() else None


def tokenizer(directory: Path) -> str | None:
    """Identity of the tokenizer a run or an imported model belongs to; None where it was imported without one."""
    own = read(directory)
    if own is not None:
        return own.tokenizer_sha256
    counts: dict[str, Any] = artifacts.finished(directory)["counts"]
    found: str | None = counts.get(TOKENIZER_SHA256)
    return found
