"""Which stage fed which: the lineage of everything below a directory, read from what the stages left. Nothing is started.

A stage's mark names its inputs by path and sha256, so what was made from something that has changed since is told apart.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo import artifacts, config, jsonl
from megatron_octo.errors import ArtifactError
from megatron_octo.launch import provenance
from megatron_octo.launch.jobs import logs_beside
from megatron_octo.launch.plan.table import grouped
from megatron_octo.launch.slurm import ledger, sessions

#: Of a commit, in tables.
COMMIT_LETTERS = 10


@dataclass(frozen=True, kw_only=True)
class Feed:
    """One input of a stage."""

    #: As the stage calls it.
    name: str
    path: str
    #: The stage that made it; None for what came from elsewhere.
    stage: str | None
    #: That stage has been made anew since, and differently.
    changed: bool


@dataclass(frozen=True, kw_only=True)
class Run:
    """One stage directory."""

    #: Its path below the directory that was asked for; `.` is that one.
    stage: str
    kind: str
    done: bool
    finished_at: str | None
    #: With `+changes` where the code was edited.
    git_commit: str | None
    wall_seconds: float
    #: What was typed; None where nobody wrote it down.
    command: str | None
    image: str | None
    #: Of the newest session.
    hosts: str | None
    feeds: tuple[Feed, ...]


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One line of runs.jsonl."""

    submitted_at: str
    study: str
    command: str
    git_commit: str | None
    #: Job number by stage; None on this machine.
    jobs: dict[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Runs:
    """What `megatron-octo runs` says."""

    submissions: tuple[Submission, ...]
    #: Those that fed others first.
    runs: tuple[Run, ...]


def read(directory: Path) -> Runs:
    """All stages below a directory, and the submissions of it or of the studies in it. Raises `ArtifactError` where there are none."""
    root = directory.absolute()
    marks = {path: mark for path in _stage_directories(root) if (mark := artifacts.read_mark(path)) is not None}
    found = [_run(path, marks, root) for path in marks]
    submissions = _submissions(root)
    if not found and not submissions:
        raise ArtifactError(f"{directory} holds no stage; name a study's directory, or one with studies in it")
    return Runs(submissions=submissions, runs=tuple(_in_order(found)))


def as_json(found: Runs) -> str:
    return json.dumps(config.to_dict(found), indent=2)


def as_text(found: Runs) -> str:
    """The submissions, then a table of stages."""
    said = [f"{each.submitted_at}  {_commit(each.git_commit)}  {each.command}" for each in found.submissions]
    lines = [("stage", "kind", "finished", "commit", "on", "from"), *(_line(run) for run in found.runs)]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    table = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(line[:5], widths, strict=True)), line[5]]).rstrip()
        for line in lines
    ]
    return "\n".join([*said, *([""] if said else []), *table])


def _stage_directories(root: Path) -> Iterator[Path]:
    """Directories with a mark; nothing below one is another stage."""
    for folder, children, files in os.walk(root):
        children[:] = sorted(name for name in children if not name.startswith("."))
        if artifacts.MARK in files:
            children.clear()
            yield Path(folder)


def _run(path: Path, marks: Mapping[Path, Mapping[str, Any]], root: Path) -> Run:
    mark = marks[path]
    logs = _logs(path, root)
    noted = _json(logs / provenance.RUN) if logs is not None else {}
    # Where relative paths began: noted, or else tried.
    places = (Path(noted["directory"]),) if noted else (Path.cwd(), *root.parents)
    return Run(
        stage=str(path.relative_to(root)),
        kind=mark["kind"],
        done=bool(mark["done"]),
        finished_at=mark.get("finished_at"),
        git_commit=mark.get("git_commit"),
        wall_seconds=float(mark["wall_seconds"]),
        command=noted.get("command"),
        image=noted.get("image_digest") or noted.get("image"),
        hosts=_hosts(logs) if logs is not None else None,
        feeds=tuple(_feed(name, source, places, marks, root) for name, source in mark["inputs"].items()),
    )


def _logs(path: Path, root: Path) -> Path | None:
    """A study's stages have their logs below the study's, a stage of its own beside it."""
    beside = logs_beside(path)
    above = (
        parent / "logs" / path.relative_to(parent) for parent in path.parents if parent.is_relative_to(root.parent)
    )
    return next((logs for logs in (beside, *above) if (logs / provenance.RUN).exists()), None)


def _hosts(logs: Path) -> str | None:
    newest = [
        task / f"session-{number}" for task in sessions.tasks(logs) for number in list(sessions.folders(task))[-1:]
    ]
    written = [_json(folder / provenance.ENVIRONMENT) for folder in (*newest, logs)]
    named = [each["hosts"] or each["host"] for each in written if each]
    last = sessions.last(logs)
    return ", ".join(dict.fromkeys(named)) or (last.nodes if last is not None else None)


def _feed(
    name: str, source: Mapping[str, Any], places: Sequence[Path], marks: Mapping[Path, Mapping[str, Any]], root: Path
) -> Feed:
    paths = [Path(os.path.normpath(place / source["path"])) for place in places]
    made = next(((path, maker) for path in paths for maker in (path, *path.parents) if maker in marks), None)
    if made is None:
        return Feed(name=name, path=str(source["path"]), stage=None, changed=False)
    path, maker = made
    now = _sha256(path.relative_to(maker), marks[maker])
    changed = now is not None and "sha256" in source and now != source["sha256"]
    return Feed(name=name, path=str(source["path"]), stage=str(maker.relative_to(root)), changed=changed)


def _sha256(inside: Path, mark: Mapping[str, Any]) -> str | None:
    """What an output of a finished stage is recognised by (`artifacts.fingerprint`), out of its mark; None where it does not say."""
    outputs: Mapping[str, str] = mark.get("outputs", {})
    if str(inside) in outputs:
        return outputs[str(inside)]
    below = {
        str(Path(name).relative_to(inside)): sha for name, sha in outputs.items() if Path(name).is_relative_to(inside)
    }
    return hashlib.sha256(json.dumps(below, sort_keys=True).encode()).hexdigest() if below else None


def _in_order(found: Sequence[Run]) -> list[Run]:
    """Stages after those that fed them; otherwise by name."""
    left, placed = {run.stage: run for run in sorted(found, key=lambda run: run.stage)}, list[Run]()
    while left:
        ready = [run for run in left.values() if not any(feed.stage in left for feed in run.feeds)]
        # Nothing is ready only where a stage names itself among its inputs.
        for run in ready or list(left.values()):
            placed.append(left.pop(run.stage))
    return placed


def _submissions(root: Path) -> tuple[Submission, ...]:
    own = [row for row in jsonl.read(root.parent / ledger.RUNS) if row.get("study") == str(root)]
    rows = [*own, *jsonl.read(root / ledger.RUNS)]
    names = Submission.__dataclass_fields__
    return tuple(
        config.from_dict(Submission, {key: row[key] for key in names}) for row in rows if names.keys() <= row.keys()
    )


def _line(run: Run) -> tuple[str, ...]:
    feeds = dict.fromkeys(feed.stage or feed.path for feed in run.feeds if not (feed.stage and feed.changed))
    changed = dict.fromkeys(feed.stage for feed in run.feeds if feed.stage and feed.changed)
    warned = [f"{stage} (made anew since: run this stage again)" for stage in changed]
    return (
        run.stage,
        run.kind,
        (run.finished_at or "") if run.done else "not done",
        _commit(run.git_commit),
        run.hosts or "",
        ", ".join(filter(None, [grouped(list(feeds)), *warned])),
    )


def _commit(commit: str | None) -> str:
    if commit is None:
        return "-"
    number, plus, changes = commit.partition("+")
    return number[:COMMIT_LETTERS] + plus + changes


def _json(file: Path) -> dict[str, Any]:
    """Empty where there is none."""
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found
