"""Why a run ended and where it stands, in a file: exit codes lie.

torchrun and srun turn a run that saved and left in good order into exit code 143, 138 or 0, by who sent the signal and how
long the save took. So rank 0 keeps

    OUT/logs/state.json    {"reason": "signal", "step": 1200, "checkpoint": "iter_0001200", ...}

and launchers and people read that. It lies below `logs/` because it holds times, a host and a process id: beside the outputs it
would make the hashes of two equal runs differ.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Any

from megatron_octo import artifacts, units
from megatron_octo.errors import ArtifactError

FILE = Path("logs", "state.json")
SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: One request told twice comes within this time: Slurm signals every process of a step, and torchrun, signalled too, passes it on.
ONE_REQUEST_SECONDS = 3.0


class Reason(Enum):
    """What the run is doing or why it stopped."""

    #: Training; where `pid` is gone from `host`, it was killed (or lost its machine) and continues from `checkpoint`.
    RUNNING = "running"
    #: Every step of the phase is made.
    FINISHED = "finished"
    #: Asked to stop by a signal, which `detail` names; saved first. Start it again to continue.
    SIGNAL = "signal"
    #: Too many steps with a loss or gradient that is not finite or spikes; `detail` names the documents.
    ANOMALIES = "anomalies"
    #: A checkpoint could not be written; the one before is valid.
    SAVE_FAILED = "save_failed"
    #: A rank made no progress; `detail` names it, `logs/stacks` holds what every rank was doing.
    HUNG = "hung"
    #: An exception, which `detail` is.
    ERROR = "error"


@dataclass(frozen=True, kw_only=True)
class State:
    """What `state.json` holds."""

    reason: Reason
    #: Optimizer steps of this phase, done.
    step: int
    #: Tokens of this phase.
    tokens: int
    #: Tokens of this phase and those it branched from.
    total_tokens: int
    #: Name below `OUT/checkpoints` of the newest complete checkpoint: where a restart continues. None before the first.
    checkpoint: str | None
    #: One message for people; None where there is nothing to add.
    detail: str | None
    #: When this was written, UTC.
    written_at: str
    #: Where the process that wrote it runs.
    host: str
    pid: int


def write(
    out: Path, *, reason: Reason, step: int, tokens: int, total_tokens: int, checkpoint: str | None, detail: str | None
) -> None:
    """Replace the state of the run in `out`; for rank 0. On a full disk it says so and goes on: the file is no reason to stop."""
    state = State(
        reason=reason, step=step, tokens=tokens, total_tokens=total_tokens, checkpoint=checkpoint, detail=detail,
        written_at=units.utc(time.time()), host=socket.gethostname(), pid=os.getpid(),
    )  # fmt: skip
    _store(out, state)


def give_reason(out: Path, reason: Reason, detail: str) -> None:
    """Say why the run ends, for those who know that and nothing of its steps; these stay as they were last written."""
    known = read(out) or State(
        reason=reason, step=0, tokens=0, total_tokens=0, checkpoint=None, detail=None, written_at="", host="", pid=0
    )
    here = replace(known, written_at=units.utc(time.time()), host=socket.gethostname(), pid=os.getpid())
    _store(out, replace(here, reason=reason, detail=detail))


def read(out: Path) -> State | None:
    """The state of the run in `out`, None where none was written. Raises `ArtifactError` for a file that is not ours."""
    file = out / FILE
    if not file.exists():
        return None
    try:
        data = json.loads(file.read_text())
        return State(**data | {"reason": Reason(data["reason"])})
    except (ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"{file} is not the state of a run ({error}); remove it") from error


def _store(out: Path, state: State) -> None:
    try:
        (out / FILE).parent.mkdir(parents=True, exist_ok=True)
        artifacts.write_json(out / FILE, asdict(state) | {"reason": state.reason.value})
    except OSError as error:
        print(f"{out / FILE} could not be written ({error}): {state.reason.value}", file=sys.stderr, flush=True)


class StopSignal:
    """While the block runs, SIGTERM and SIGINT are noted rather than obeyed: the loop ends its step, saves and leaves.

    >>> with StopSignal() as stop:
    ...     while not stop.received:
    ...         step()

    Who signals again means it: a second signal raises `KeyboardInterrupt` at once, unless it follows the first within
    `ONE_REQUEST_SECONDS`.
    """

    def __init__(self) -> None:
        #: Name of the first signal, such as "SIGTERM".
        self.received: str | None = None
        self._at_seconds = 0.0
        self._before: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> "StopSignal":
        assert threading.current_thread() is threading.main_thread(), "only the main thread may set signal handlers"
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._at_seconds = signal.Signals(number).name, now
        elif now - self._at_seconds > ONE_REQUEST_SECONDS:
            raise KeyboardInterrupt
