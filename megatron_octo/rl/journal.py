"""Where the metrics of an RL run go: JSONL, one row per step and per evaluation, and TensorBoard; no repeats after a resume."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_octo import jsonl
from megatron_octo.errors import ResourceError
from megatron_octo.rl import lines
from megatron_octo.rl.metrics import Row, step_of

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Journal:
    """Appends rows; a row is on the disk before the next step begins."""

    def __init__(self, file: Path, *, resumed_from: int | None, tensorboard: Path | None = None) -> None:
        """Open FILE, and a new event file in the directory `tensorboard`.

        Args:
            file: the JSONL.
            resumed_from: the step of the checkpoint continued from, whose later rows are dropped; None starts anew.
            tensorboard: None for no event file.
        Raises:
            ResourceError: TensorBoard's writer is not installed.
        """
        self._file = file
        self._rows: list[Row] = [*lines.forget_after(file, resumed_from)]
        self._events: SummaryWriter | None = None
        if tensorboard is not None:
            self._events = _event_file(tensorboard, first_step=0 if resumed_from is None else resumed_from + 1)

    @property
    def rows(self) -> Sequence[Row]:
        """All rows so far, those before the resume included."""
        return self._rows

    def append(self, row: Row) -> None:
        # JSON has no NaN.
        finite = {key: None if value is None or not math.isfinite(value) else value for key, value in row.items()}
        jsonl.append(self._file, [finite])
        self._rows.append(finite)
        if self._events is not None:
            _draw(self._events, finite)

    def close(self) -> None:
        if self._events is not None:
            self._events.close()


def _event_file(directory: Path, *, first_step: int) -> "SummaryWriter":
    """What earlier event files of the directory say about `first_step` and later ones no longer counts."""
    # Not at the top: readers of a journal need neither torch nor TensorBoard.
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ResourceError(
            f"TensorBoard's writer cannot be imported ({error}); pip install megatron-octo[cpu]"
        ) from error
    return SummaryWriter(str(directory), purge_step=first_step)


def _draw(events: "SummaryWriter", row: Row) -> None:
    """Every number of a row over its step, on the disk at once."""
    for key, value in row.items():
        if key != "step" and value is not None:
            events.add_scalar(key, value, step_of(row))
    events.flush()
