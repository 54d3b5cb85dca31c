"""Where every stage of a study stands: out of the files beside the run, and of Slurm where it has the jobs.

Whether a stage is over says its `stage.json` and nothing else; Slurm says what runs and what waits; `sessions.jsonl` says why a job
ended, also after Slurm forgot it. A study on this machine needs no Slurm (here.py).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_octo.errors import ConfigError, nearest
from megatron_octo.launch.slurm import ledger, queue, sessions, ssh
from megatron_octo.launch.slurm.ledger import Entry, Ledger
from megatron_octo.launch.slurm.queue import Phase, SlurmState
from megatron_octo.launch.slurm.sessions import Verdict
from megatron_octo.launch.status import here, pace
from megatron_octo.launch.status.states import ENDED_BADLY, StageStatus, State

#: What is fetched from a cluster whose file system is not ours.
SMALL_FILES = (
    "*stage.json",
    "*metrics.jsonl",
    "*logs/state.json",
    "*sessions.jsonl",
    "*session-*/.started",
    "*cancelled",
)


def status(study: Path) -> list[StageStatus]:
    """Every stage of a study, or the one whose directory this is, in the order they were planned or started.

    Raises:
        ArtifactError: nothing was started or submitted here.
        ResourceError: Slurm or the login node does not answer.
    """
    if not ledger.exists(study):
        return [here.status(stage) for stage in here.begun(study)]
    book = ledger.read(study)
    fetch(book, study, SMALL_FILES)
    known = asked(book)
    found: dict[str, StageStatus] = {}
    for name, job in book.jobs.items():
        found[name] = _submitted(name, job, known.get(name), found)
    return list(found.values())


def asked(book: Ledger) -> dict[str, SlurmState]:
    """What Slurm says, by stage; stages of which it forgot every job are missing. Raises `ResourceError`."""
    ids = [id_ for job in book.jobs.values() for id_ in job.ids]
    known = queue.states(ids, login=book.place.ssh, accounting=book.place.accounting)
    return {
        name: queue.together(states)
        for name, job in book.jobs.items()
        if (states := [known[id_] for id_ in job.ids if id_ in known])
    }


def one(study: Path, stage: str) -> StageStatus:
    """The status of one stage. Raises what `status` raises, and `ConfigError` for a name that is none of its stages."""
    known = {found.stage: found for found in status(study)}
    return known[named(stage, known)]


def named(stage: str, known: Mapping[str, Any]) -> str:
    """The name of a stage as given. Raises `ConfigError` where there is none."""
    if stage not in known:
        raise ConfigError(f"there is no stage '{stage}'{nearest(stage, known)}")
    return stage


def logs_of(study: Path, stage: str) -> Path:
    """Where a stage's logs are. Raises `ArtifactError` and `ConfigError`."""
    if ledger.exists(study):
        jobs = ledger.read(study).jobs
        return jobs[named(stage, jobs)].logs
    stages = {found.name: found for found in here.begun(study)}
    return stages[named(stage, stages)].logs


def fetch(book: Ledger, study: Path, patterns: Sequence[str]) -> None:
    """Bring what the cluster wrote here, where its file system is not ours. Raises `ResourceError`."""
    login = book.place.ssh
    if login is None or ssh.sees(login, study):
        return
    elsewhere = {job.out for job in book.jobs.values() if not job.out.is_relative_to(study)}
    for directory in (study, *sorted(elsewhere)):
        ssh.pull(login, directory, patterns)


def fetch_logs(study: Path, stage: str) -> None:
    """The same for the logs of one stage."""
    if not ledger.exists(study):
        return
    book = ledger.read(study)
    login, logs = book.place.ssh, book.jobs[named(stage, book.jobs)].logs
    if login is not None and not ssh.sees(login, study):
        ssh.pull(login, logs, ["*"])


def _submitted(name: str, job: Entry, slurm_says: SlurmState | None, before: Mapping[str, StageStatus]) -> StageStatus:
    """A stage that Slurm has or had; `before` holds those it needs."""
    mark = here.read_mark(job.out)
    last = sessions.last(job.logs)
    culprit = None
    if mark is not None and mark["done"]:
        state, detail = State.DONE, None
    elif slurm_says is not None and slurm_says.phase is Phase.RUNNING:
        state, detail = State.RUNNING, None
    elif culprit := _culprit(job, before):
        state, detail = State.BLOCKED, None
    elif slurm_says is not None and slurm_says.phase is Phase.QUEUED:
        state, detail = State.WAITING, _waits_for(slurm_says, job, before)
    else:
        state, detail = _ended(job, slurm_says)
    nodes = slurm_says.nodes if slurm_says is not None else None
    if nodes is None and last is not None:
        nodes = last.nodes
    return StageStatus(
        stage=name, state=state, detail=detail, blocked_by=culprit, nodes=nodes,
        job=job.id if slurm_says is None else slurm_says.id,
        session=sessions.newest(job.logs), pace=pace.read(job.out, mark),
    )  # fmt: skip


def _culprit(job: Entry, before: Mapping[str, StageStatus]) -> str | None:
    """The stage that ended badly and without which this one cannot run."""
    needed = (before[need] for need in job.needs if need in before)
    return next((need.blocked_by or need.stage for need in needed if need.state in ENDED_BADLY), None)


def _waits_for(slurm_says: SlurmState, job: Entry, before: Mapping[str, StageStatus]) -> str | None:
    """The stages before it, or else Slurm's reason and the time at which it expects to start it."""
    if unfinished := [need for need in job.needs if need in before and before[need].state is not State.DONE]:
        return f"after {', '.join(unfinished)}"
    # All it needs is done, and Slurm has not looked since.
    reason = slurm_says.reason if slurm_says.reason != "Dependency" else None
    expected = slurm_says.start and f"expected at {slurm_says.start}"
    return "; ".join(part for part in (reason, expected) if part) or None


def _ended(job: Entry, slurm_says: SlurmState | None) -> tuple[State, str]:
    """How a job ended that is not done, by whoever knows most about it."""
    last = sessions.last(job.logs)
    if sessions.is_cancelled(job.logs) or (slurm_says is not None and slurm_says.phase is Phase.CANCELLED):
        return State.CANCELLED, "'resume' submits it again"
    if last is not None and last.verdict is Verdict.FAILED:
        said = here.last_words(job.out)
        return State.FAILED, last.reason if said is None else f"{last.reason}: {said}"
    if slurm_says is not None:
        why = f" ({slurm_says.reason})" if slurm_says.reason else ""
        return State.FAILED, f"Slurm says {slurm_says.word}{why}; 'logs' shows its last words"
    return State.FAILED, f"Slurm knows job {job.id} no more, and it never said how it ended; 'resume' submits it again"
