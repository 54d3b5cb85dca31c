"""OUT/metrics.jsonl and alarms of an OpenRLHF run, brought up to date from what it logs."""

import os
from pathlib import Path

from megatron_octo.rl.config import RLJob
from megatron_octo.rl.journal import Journal
from megatron_octo.rl.metrics import Row, step_of
from megatron_octo.rl.openrlhf_checkpoints import Checkpoints
from megatron_octo.rl.openrlhf_logs import Logs
from megatron_octo.rl.stage import ALARMS, METRICS, TENSORBOARD
from megatron_octo.rl.watch import AlarmWatch

#: Below OUT/logs: OpenRLHF's event files; our rollouts, a file per engine; both of earlier tries.
EVENTS, ROLLOUTS, EARLIER = "openrlhf-tensorboard", "rollouts", "earlier"


class Metrics:
    """Follows a try of a run."""

    def __init__(self, job: RLJob, out: Path, checkpoints: Checkpoints, *, resumed_from: int | None) -> None:
        """Catch up with an earlier try as far as the step that is gone on from, and set its logs aside: what came later comes again."""
        step, logs = resumed_from, out / "logs"
        self._checkpoints = checkpoints
        self._journal = Journal(out / METRICS, resumed_from=step, tensorboard=out / TENSORBOARD)
        self._watch = AlarmWatch(job.recipe.name, job.recipe.alarms, out / ALARMS, resumed_from=step)
        written = {_identity(row) for row in self._journal.rows}
        for row in Logs(logs / EVENTS, logs / ROLLOUTS).new_rows():
            if step_of(row) <= (step or 0) and _identity(row) not in written:
                self._journal.append(row)
        set_aside(logs)
        self._logs = Logs(logs / EVENTS, logs / ROLLOUTS)
        self.update()

    def update(self) -> None:
        """Write down what OpenRLHF logged since the last time."""
        for row in self._logs.new_rows():
            self._journal.append(row)
        self._watch.look(self._journal.rows, saved=self._checkpoints.steps())

    def close(self) -> None:
        self._journal.close()


def set_aside(logs: Path) -> None:
    """Move what an earlier try logged below `logs`/earlier."""
    number = len(list((logs / EARLIER).glob("*")))
    for name in (EVENTS, ROLLOUTS):
        if (logs / name).exists():
            (logs / EARLIER / f"{number}").mkdir(parents=True, exist_ok=True)
            os.replace(logs / name, logs / EARLIER / f"{number}" / name)


def _identity(row: Row) -> tuple[object, ...]:
    """Step and kind: training, or which evaluation set."""
    return row["step"], next((key for key in row if key.startswith("eval/")), "train")
