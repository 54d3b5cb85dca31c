"""What was submitted, in a file beside the run: any login node can ask after it.

    STUDY/launch/jobs.json    the place as resolved, the command, and every stage's job; replaced as a whole
    STUDY/../runs.jsonl       one line per submission

Neither holds a secret: the place names a file of the environment, not what is in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_octo import artifacts, config, jsonl
from megatron_octo.errors import ArtifactError, ConfigError
from megatron_octo.launch import source_state
from megatron_octo.launch.place import Place

FILE = Path("launch", "jobs.json")
RUNS = "runs.jsonl"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One stage's job."""

    #: Slurm's number of the last of its jobs: whoever needs the stage waits for that one.
    id: str
    #: All of them, in order: more than one for the copies of a chain, and for arrays that run twice.
    ids: tuple[str, ...]
    out: Path
    logs: Path
    needs: tuple[str, ...]
    script: Path


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The stages of a study that a cluster was given, and where."""

    place: Place
    #: UTC, of the newest submission.
    submitted_at: str
    #: What the user typed.
    command: str
    #: By the stage's name, in an order that respects what needs what.
    jobs: dict[str, Entry]


def exists(study: Path) -> bool:
    """Whether anything of this study was submitted to a cluster."""
    return (study / FILE).exists()


def read(study: Path) -> Ledger:
    """Raises `ArtifactError` where nothing was submitted, or the file is not ours."""
    file = study / FILE
    if not file.exists():
        raise ArtifactError(f"{study} was not submitted to a cluster (no {FILE}); 'study ... --on PLACE' does that")
    try:
        return config.load(Ledger, file)
    except ConfigError as error:
        raise ArtifactError(f"{file} cannot be read: {error}") from error


def write(study: Path, ledger: Ledger) -> None:
    """Replace the ledger and note the submission. Stages that were submitted before and not again stay in it."""
    before = read(study).jobs if exists(study) else {}
    (study / FILE).parent.mkdir(parents=True, exist_ok=True)
    whole = config.to_dict(ledger) | {
        "command": source_state.redact(ledger.command),
        "jobs": config.to_dict(before | ledger.jobs),
    }
    artifacts.write_json(study / FILE, whole)
    _note(study, ledger, list(ledger.jobs))


def _note(study: Path, ledger: Ledger, stages: Sequence[str]) -> None:
    row = {
        "submitted_at": ledger.submitted_at,
        "study": str(study),
        "command": source_state.redact(ledger.command),
        "git_commit": artifacts.git_commit(),
        "jobs": {name: ledger.jobs[name].id for name in stages},
    }
    jsonl.append(study.parent / RUNS, [row])
