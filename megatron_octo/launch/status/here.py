"""Where the stages of a study on this machine stand, out of its files: whoever runs it holds its lock (`local.exclusive`)."""

import fcntl
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo import artifacts
from megatron_octo.errors import ArtifactError
from megatron_octo.launch.jobs import logs_beside
from megatron_octo.launch.local import LOCK
from megatron_octo.launch.status import pace
from megatron_octo.launch.status.states import StageStatus, State

CONFIG = "config.json"
#: `reason` of a training run's state.json that a restart alone does not mend.
BAD_REASONS = ("anomalies", "save_failed", "error")


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A stage that was started here."""

    name: str
    out: Path
    logs: Path
    #: Held while somebody runs it, or the study it belongs to.
    lock: Path


def begun(study: Path) -> list[Begun]:
    """The stages of a study, or the one whose directory this is, in the order they were started last.

    Those that were not begun have left nothing to list. Raises `ArtifactError` where nothing was.
    """
    alone = logs_beside(study)
    if (alone / CONFIG).exists():
        return [Begun(name=study.name, out=study, logs=alone, lock=alone / LOCK)]
    if stages := list(_of_study(study)):
        return stages
    raise ArtifactError(
        f"nothing was started or submitted in {study}: no launch/jobs.json, no logs/<stage>/{CONFIG}; name the directory of a "
        "study or of a stage"
    )


def _of_study(study: Path) -> Iterator[Begun]:
    logs = study / "logs"
    for file in sorted(logs.rglob(CONFIG), key=lambda file: file.stat().st_mtime_ns):
        name = str(file.parent.relative_to(logs))
        yield Begun(name=name, out=study / name, logs=file.parent, lock=study / LOCK)


def status(stage: Begun) -> StageStatus:
    mark = read_mark(stage.out)
    state, detail = (State.DONE, None) if mark is not None and mark["done"] else _open(stage)
    return StageStatus(stage=stage.name, state=state, detail=detail, pace=pace.read(stage.out, mark))


def _open(stage: Begun) -> tuple[State, str | None]:
    """State of a stage that is not done, and why."""
    if is_held(stage.lock):
        # Each start writes the config anew; one older than the lock is of an earlier run, and this one has yet to come to it.
        started = (stage.logs / CONFIG).stat().st_mtime_ns >= stage.lock.stat().st_mtime_ns
        return (State.RUNNING if started else State.WAITING), None
    said = last_words(stage.out)
    if said is not None:
        return State.FAILED, said
    return State.STOPPED, "run the same command again, it continues"


def read_mark(out: Path) -> dict[str, Any] | None:
    """`stage.json`; one that cannot be read says nothing about the stage."""
    try:
        return artifacts.read_mark(out)
    except ArtifactError:
        return None


def last_words(out: Path) -> str | None:
    """What a training run said when it ended by itself in a way that a restart does not mend."""
    try:
        state = json.loads((out / "logs" / "state.json").read_text())
    except (OSError, ValueError):
        return None
    return str(state["detail"]) if state.get("reason") in BAD_REASONS else None


def is_held(lock: Path) -> bool:
    """Whether a launcher, or a process it left behind, holds a directory of this machine."""
    if not lock.exists():
        return False
    with lock.open() as stream:
        try:
            # Shared: two who look at the same time do not take each other for a launcher.
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
