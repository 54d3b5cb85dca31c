"""The sessions of a job: every time it was started anew, after a requeue or as the next copy of a chain.

    LOGS/session-0/        what the job and its ranks said in their first session; a restart gets a folder of its own
    LOGS/sessions.jsonl    a line per session that came to its end by itself; a node that crashed leaves none
    LOGS/cancelled         there from `cancel` to `resume`: the job must not requeue itself any more

Each task of an array has all this in a LOGS/task00000 of its own.
"""

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from megatron_octo import jsonl

RECORD = "sessions.jsonl"
CANCELLED = "cancelled"
_FOLDER = re.compile(r"session-(\d+)")


class Verdict(Enum):
    """What the end of a session meant."""

    DONE = "done"
    #: Goes on under the same job number.
    REQUEUED = "requeued"
    #: Goes on as the next copy.
    CHAINED = "chained"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Session:
    """How one session ended."""

    number: int
    exit_code: int
    verdict: Verdict
    #: One sentence for people.
    reason: str
    nodes: str | None


def tasks(logs: Path) -> list[Path]:
    """Where the sessions of each task of an array lie, as far as they began; for other jobs, of the job."""
    return sorted(logs.glob("task[0-9]*")) or [logs]


def folders(logs: Path) -> dict[int, Path]:
    """The sessions' folders by number, in order; none for a job that never started."""
    found = ((_FOLDER.fullmatch(path.name), path) for path in logs.glob("session-*"))
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def newest(logs: Path) -> int | None:
    """The newest session's number, of an array the highest of any task; None before the first."""
    return max((number for task in tasks(logs) for number in folders(task)), default=None)


def last(logs: Path) -> Session | None:
    """The newest session that ended by itself, of an array one that failed if there is one; None before there is any."""
    ends = [rows[-1] for task in tasks(logs) if (rows := list(jsonl.read(task / RECORD)))]
    found = [_session(row) for row in ends]
    return next((session for session in found if session.verdict is Verdict.FAILED), found[-1] if found else None)


def is_cancelled(logs: Path) -> bool:
    """Whether `cancel` stopped the job, and nobody submitted it again."""
    return any((task / CANCELLED).exists() for task in tasks(logs))


def _session(row: dict[str, Any]) -> Session:
    return Session(
        number=int(row["session"]),
        exit_code=int(row["exit_code"]),
        verdict=Verdict(row["verdict"]),
        reason=str(row["reason"]),
        nodes=row.get("nodes") or None,
    )
