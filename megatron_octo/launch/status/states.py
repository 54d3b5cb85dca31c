"""The noun of `status`: where one stage stands; as a table, as JSON and as an exit code.

Exit codes of `megatron-octo status`: 0 every stage is done; 3 the study goes on; 1 something failed, was cancelled or stopped, also
while other stages still go on.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from megatron_octo import units
from megatron_octo.launch.status.pace import Pace
from megatron_octo.units import duration

EXIT_DONE, EXIT_FAILED, EXIT_GOES_ON = 0, 1, 3
COLUMNS = ("stage", "state", "job", "nodes", "session", "step", "tokens", "loss", "tokens/s", "left")


class State(Enum):
    DONE = "done"
    RUNNING = "running"
    #: Will run when its turn comes.
    WAITING = "waiting"
    FAILED = "failed"
    CANCELLED = "cancelled"
    #: On this machine: interrupted or ended badly, and nobody is at it.
    STOPPED = "stopped"
    #: Will not run, because a stage it needs failed, was cancelled or stopped.
    BLOCKED = "blocked"


GOES_ON = (State.RUNNING, State.WAITING)
ENDED_BADLY = (State.FAILED, State.CANCELLED, State.STOPPED, State.BLOCKED)


@dataclass(frozen=True, kw_only=True)
class StageStatus:
    """One stage, as far as it is known from here."""

    stage: str
    state: State
    #: For people: what it waits for, why it ended.
    detail: str | None = None
    #: The stage that ended badly, of those this one needs directly or through others.
    blocked_by: str | None = None
    #: Slurm's job number.
    job: str | None = None
    #: Where it runs or ran last, as Slurm writes it: `node[1-4]`.
    nodes: str | None = None
    #: 0 before the first restart.
    session: int | None = None
    pace: Pace = field(default_factory=Pace)

    def to_json(self) -> dict[str, Any]:
        """Flat; keys as the fields of this class and of `Pace`."""
        plain = asdict(self) | {"state": self.state.value}
        steps: dict[str, Any] = plain.pop("pace")
        return plain | steps


def exit_code(stages: Sequence[StageStatus]) -> int:
    """0, 1 or 3, as the module says."""
    if any(stage.state in ENDED_BADLY for stage in stages):
        return EXIT_FAILED
    return EXIT_DONE if all(stage.state is State.DONE for stage in stages) else EXIT_GOES_ON


def as_json(stages: Sequence[StageStatus]) -> str:
    return json.dumps([stage.to_json() for stage in stages], indent=2)


def as_table(stages: Sequence[StageStatus]) -> str:
    """Columns for people, as wide as what is in them and left out where nothing is; why a stage waits or ended closes its line."""
    rows = [COLUMNS, *(_row(stage) for stage in stages)]
    used = [column for column in range(len(COLUMNS)) if any(row[column] for row in rows[1:])]
    widths = {column: max(len(row[column]) for row in rows) for column in used}
    details = ["", *(stage.detail or "" for stage in stages)]
    lines = (
        "  ".join([*(row[at].ljust(widths[at]) for at in used), why]) for row, why in zip(rows, details, strict=True)
    )
    return "\n".join(line.rstrip() for line in lines)


def _row(stage: StageStatus) -> tuple[str, ...]:
    at = stage.pace
    step = "" if at.step is None else f"{at.step:,}" if at.steps is None else f"{at.step:,}/{at.steps:,}"
    loss = f"{at.loss:.3f}" if at.loss is not None else "" if at.reward is None else f"reward {at.reward:.3f}"
    going = stage.state is State.RUNNING
    return (
        stage.stage,
        f"blocked by {stage.blocked_by}" if stage.blocked_by else stage.state.value,
        stage.job or "",
        stage.nodes or "",
        "" if stage.session is None else str(stage.session),
        step,
        "" if at.tokens is None else units.count(at.tokens),
        loss,
        units.count(at.tokens_per_second) if going and at.tokens_per_second else "",
        duration(at.seconds_left) if going and at.seconds_left is not None else "",
    )
