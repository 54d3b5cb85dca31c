"""A study as a submission leaves it, with stages and answers of Slurm as a test wants them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_octo import config, jsonl
from megatron_octo.launch.place import Kind, Place

PLACE = Place(kind=Kind.SLURM, cpus_per_node=2, time_limit="60", accounting=False)
NEEDS: Mapping[str, Sequence[str]] = {
    "stable": (),
    "long": ("stable",),
    "short": ("stable",),
    "report": ("long", "short"),
}


def submit(study: Path, ids: Mapping[str, str], *, place: Place = PLACE) -> None:
    """The ledger of a study whose stages got these job numbers, several as `1,2`."""
    jobs = {
        name: {
            "id": id_.split(",")[-1],
            "ids": id_.split(","),
            "out": str(study / name),
            "logs": str(study / "logs" / name),
            "needs": list(NEEDS.get(name, ())),
            "script": str(study / "logs" / name / "job.sbatch"),
        }
        for name, id_ in ids.items()
    }
    book = {
        "place": config.to_dict(place),
        "submitted_at": "2026-11-23T03:00:00Z",
        "command": "megatron-octo study tiny",
    }
    write(study / "launch" / "jobs.json", book | {"jobs": jobs})


def mark(out: Path, *, done: bool, kind: str = "test", settings: Any = None) -> None:
    """`stage.json` of a stage."""
    plain = {"done": done, "kind": kind, "config": settings or {}, "inputs": {}, "counts": {}, "wall_seconds": 1.0}
    write(out / "stage.json", plain | {"resumable": True})


def session(logs: Path, number: int, verdict: str, reason: str, exit_code: int = 1) -> None:
    """The end of one session."""
    row = {
        "session": number,
        "job": "1",
        "nodes": "node[1-2]",
        "exit_code": exit_code,
        "verdict": verdict,
        "reason": reason,
    }
    (logs / f"session-{number}").mkdir(parents=True, exist_ok=True)
    jsonl.append(logs / "sessions.jsonl", [row | {"started": "2026-11-23T03:00:00Z", "ended": "2026-11-23T04:00:00Z"}])


def say(logs: Path, number: int, rank: int, text: str) -> Path:
    """What a rank said in a session."""
    file = logs / f"session-{number}" / f"rank{rank}.log"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def write(file: Path, data: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(data))
