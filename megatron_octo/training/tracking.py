"""Where the numbers of a run go: one JSONL, TensorBoard, a progress bar, and Weights & Biases by option.

    OUT/metrics.jsonl        one row per step, units in the keys; what everything else reads
    OUT/logs/tensorboard     every number of a row over the step
    OUT/logs/wandb_id        the Weights & Biases run that a restart continues

A row costs about 0.1 ms. A step that is made again after a kill appears once in each of them.
"""

import contextlib
import json
import os
import socket
import sys
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from megatron_octo import progress
from megatron_octo.errors import ResourceError

try:
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter
except ImportError as error:
    raise ResourceError(f"TensorBoard's writer cannot be imported ({error}); pip install megatron-octo[cpu]") from error

#: None where a number is not finite: JSON has no NaN.
Row = dict[str, float | None]


class Tracker:
    """Takes one row of metrics per step. Rank 0 alone has one.

    Args:
        out: the stage directory.
        resume_step: rows after it are forgotten: a run that was killed makes those steps again.
        total_tokens: tokens of the whole phase, for the bar.
        done_tokens: tokens of the phase made before.
        wandb_project: project of Weights & Biases, None for none.
        config: what the run was configured with, as plain JSON values; Weights & Biases shows it.
    Raises:
        ResourceError: Weights & Biases is wanted and not installed, or does not start.
    """

    def __init__(
        self,
        out: Path,
        *,
        name: str,
        resume_step: int,
        total_tokens: int,
        done_tokens: int,
        wandb_project: str | None,
        config: dict[str, Any],
    ) -> None:
        self._name, self._tokens = name, done_tokens
        self._closing = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            file = out / "metrics.jsonl"
            forget_rows_after(file, resume_step)
            self._rows = stack.enter_context(contextlib.closing(Rows(file)))
            events = EventFile(out / "logs" / "tensorboard", first_step=resume_step + 1)
            self._events = stack.enter_context(contextlib.closing(events))
            self._wandb = None
            if wandb_project is not None:
                run = WandbRun(out / "logs", project=wandb_project, name=name, config=config)
                self._wandb = stack.enter_context(run)
            self._advance = stack.enter_context(progress.bar(name, total=total_tokens, unit="tokens", done=done_tokens))
            self._closing = stack.pop_all()

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._closing.__exit__(kind, error, where)

    def log(self, row: Row) -> None:
        """Take the row of one step: `step`, `tokens` and `loss`, and any other numbers."""
        self._rows.add(json.dumps(row))
        with contextlib.suppress(OSError):  # a full disk, which the rows have said
            self._events.add(row)
        if self._wandb is not None:
            self._wandb.add(row)
        tokens, loss = row["tokens"], row["loss"]
        assert tokens is not None, "only losses and norms may be missing"
        if (validation := row.get("validation/loss")) is not None:
            print(f"{self._name}: step {_step(row):,}: validation loss {validation:.4f}", file=sys.stderr, flush=True)
        self._advance(int(tokens) - self._tokens, "no loss" if loss is None else f"loss {loss:.3f}")
        self._tokens = int(tokens)


class Rows:
    """Lines at the end of a file, each there at once. What a full disk does not take is kept and written with a later one."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._waiting = b""

    def add(self, line: str) -> None:
        behind = bool(self._waiting)
        self._waiting += line.encode() + b"\n"
        try:
            while self._waiting:
                self._waiting = self._waiting[os.write(self._descriptor, self._waiting) :]
        except OSError as error:
            if not behind:
                print(
                    f"warning: {self.file} could not be written ({error.strerror}); its rows are kept and written when it can be",
                    file=sys.stderr, flush=True,
                )  # fmt: skip

    def close(self) -> None:
        os.close(self._descriptor)


def forget_rows_after(file: Path, step: int) -> None:
    """Drop the rows that a stopped run made after its last checkpoint, and a last line it did not finish."""
    if file.exists():
        rows = [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
        temporary = file.with_name(f".{file.name}.tmp")
        temporary.write_text("".join(line for line in rows if json.loads(line)["step"] <= step))
        os.replace(temporary, file)


class EventFile:
    """One TensorBoard event file, written with TensorBoard's own records and without the TensorFlow its writer would look for.

    Args:
        first_step: what earlier files of the directory say about this step and later ones no longer counts.
    """

    def __init__(self, directory: Path, *, first_step: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        # A name of its own per start: TensorBoard reads the files of a directory one after the other, in the order of names.
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter((directory / name).open("xb"))
        self._write(Event(file_version="brain.Event:2", step=first_step))
        self._write(Event(session_log=SessionLog(status=SessionLog.START), step=first_step))
        self._records.flush()

    def add(self, row: Row) -> None:
        numbers = [Summary.Value(tag=key, simple_value=value) for key, value in _numbers(row).items()]
        self._write(Event(step=_step(row), summary=Summary(value=numbers)))
        self._records.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk, which the rows have said
            self._records.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())


class WandbRun:
    """The same rows on Weights & Biases; a restart continues the run whose id lies in `wandb_id`."""

    def __init__(self, logs: Path, *, project: str, name: str, config: dict[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ResourceError(
                f"the run is to be logged to the project '{project}' of Weights & Biases, which cannot be imported ({error}); "
                "pip install megatron-octo[wandb], or leave --wandb away"
            ) from error
        file = logs / "wandb_id"
        if not file.exists():
            file.write_text(uuid.uuid4().hex[:12] + "\n")
        try:
            self._run = wandb.init(
                project=project, name=name, id=file.read_text().strip(), resume="allow", dir=logs, config=config
            )
        except wandb.Error as error:
            raise ResourceError(
                f"Weights & Biases does not start ({error}); set WANDB_API_KEY, or WANDB_MODE=offline to send the run later, "
                "or leave --wandb away"
            ) from error

    def __enter__(self) -> "WandbRun":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._run.finish(exit_code=0 if kind is None else 1)

    def add(self, row: Row) -> None:
        # A step made again has the same numbers; Weights & Biases takes steps in rising order only.
        if _step(row) >= self._run.step:
            self._run.log(_numbers(row), step=_step(row))


def _step(row: Row) -> int:
    step = row["step"]
    assert step is not None
    return int(step)


def _numbers(row: Row) -> dict[str, float]:
    """What can be drawn over the step."""
    return {key: value for key, value in row.items() if key != "step" and value is not None}
