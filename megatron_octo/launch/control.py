"""Stops a submitted study, or one of its stages, and submits again what is not done.

Whoever cancels is obeyed by a job that would requeue itself: LOGS/cancelled says so to its batch script before Slurm is asked.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from megatron_octo import artifacts, units
from megatron_octo.errors import ArtifactError, ResourceError
from megatron_octo.launch.local import LOCK
from megatron_octo.launch.place import SSH, Restart
from megatron_octo.launch.slurm import ledger, queue, sbatch, sessions, ssh
from megatron_octo.launch.slurm.ledger import Entry, Ledger
from megatron_octo.launch.slurm.queue import Phase
from megatron_octo.launch.slurm.submitting import MORE
from megatron_octo.launch.status import here, standing
from megatron_octo.launch.status.states import GOES_ON, StageStatus, State

POLL_SECONDS = 2.0
#: Until Slurm has killed what it cancelled: its KillWait, 30 s as shipped, and what clusters take on top (guess).
KILL_SECONDS = 120
#: What a session leaves in LOGS for the next one of the same submission, and a new submission must not find (jobscript/setup.sh.in).
FORGOTTEN = ("progress", "verdict", sessions.CANCELLED)


def cancel(study: Path, stage: str | None) -> list[str]:
    """Stop a stage and all that needs it, or everything: what waits never starts, what runs saves and leaves.

    Returns the stages that were waiting or running, once nothing of them runs any more.

    Raises:
        ArtifactError: the study was not submitted to a cluster.
        ConfigError: there is no such stage.
        ResourceError: Slurm does not answer, or does not get rid of a job.
    """
    book = _submitted(study, "cancel")
    wanted = with_dependents(book, standing.named(stage, book.jobs)) if stage is not None else list(book.jobs)
    phases = _alive(book, wanted)
    alive = [name for name in wanted if phases.keys() & set(book.jobs[name].ids)]
    _touch(
        [folder / sessions.CANCELLED for name in alive for folder in sessions.tasks(book.jobs[name].logs)],
        book.place.ssh,
    )
    # A job outlives its stage by moments.
    stopped = [name for name in alive if not artifacts.is_done(book.jobs[name].out)]
    # The last first: none starts because the one before it is gone.
    waiting = [id_ for id_ in reversed(phases) if phases[id_] is Phase.QUEUED]
    running = [id_ for id_ in phases if phases[id_] is Phase.RUNNING]
    queue.cancel(waiting, login=book.place.ssh)
    queue.cancel(running, login=book.place.ssh, waiting_only=True)  # an array's tasks
    queue.ask_to_stop(running, login=book.place.ssh)
    if not _are_over(running, book, seconds=book.place.save_seconds):
        queue.cancel(running, login=book.place.ssh)
        if not _are_over(running, book, seconds=KILL_SECONDS):
            raise ResourceError(
                f"Slurm does not get rid of {', '.join(alive)} (jobs {', '.join(running)}); look at 'scontrol show job', a node may hang"
            )
    return stopped


def resume(study: Path, stage: str | None) -> dict[str, str]:
    """Submit again what is not done, or one stage and what it needs. What still runs or waits goes on as it is.

    Returns job ids by stage; empty where everything is done or goes on.

    Raises:
        ArtifactError: the named stage is done, runs or waits; the study was not submitted to a cluster.
        ConfigError: there is no such stage.
        ResourceError: Slurm does not answer or refuses; then nothing of this is left in its queue.
    """
    book = _submitted(study, "resume")
    stands = {found.stage: found for found in standing.status(study)}
    if stage is not None:
        _require_over(stands[standing.named(stage, stands)])
    wanted = with_needs(book, stage) if stage is not None else list(book.jobs)
    again = [name for name in wanted if stands[name].state not in (State.DONE, *GOES_ON)]
    # A job that waits for one that failed may still be in the queue, and never run.
    queue.cancel([id_ for name in again for id_ in book.jobs[name].ids], login=book.place.ssh)
    folders = [folder for name in again for folder in sessions.tasks(book.jobs[name].logs)]
    _forget([folder / name for folder in folders for name in FORGOTTEN], book.place.ssh)
    going = {name: book.jobs[name].ids for name in book.jobs if stands[name].state in GOES_ON}
    made = _submit(again, going, book)
    if made:
        jobs = {name: dataclasses.replace(book.jobs[name], id=ids[-1], ids=ids) for name, ids in made.items()}
        now = units.utc(time.time())
        ledger.write(study, Ledger(place=book.place, submitted_at=now, command=book.command, jobs=jobs))
    return {name: ids[-1] for name, ids in made.items()}


def with_dependents(book: Ledger, stage: str) -> list[str]:
    """A stage and all that need it, directly or through others, in the ledger's order."""
    found = {stage}
    for name, job in book.jobs.items():
        if found.intersection(job.needs):
            found.add(name)
    return [name for name in book.jobs if name in found]


def with_needs(book: Ledger, stage: str) -> list[str]:
    """A stage and all it needs, directly or through others, in the ledger's order."""
    found = {stage}
    for name, job in reversed(book.jobs.items()):
        if name in found:
            found.update(job.needs)
    return [name for name in book.jobs if name in found]


def _submitted(study: Path, verb: str) -> Ledger:
    """The ledger. Raises `ArtifactError`, for a study on this machine with what to do instead."""
    if not ledger.exists(study) and (study / "logs").exists():
        held = here.is_held(study / LOCK)
        what = (
            f"interrupt process {(study / LOCK).read_text().strip()}, it saves and leaves"
            if held
            else "nobody runs it now"
        )
        raise ArtifactError(
            f"{study} runs on this machine and no cluster, where there is nothing to {verb}: {what}; the same command as before "
            "continues it"
        )
    return ledger.read(study)


def _require_over(stands: StageStatus) -> None:
    if stands.state in GOES_ON:
        raise ArtifactError(
            f"{stands.stage} is {stands.state.value} as job {stands.job}; there is nothing to resume before it ended or was cancelled"
        )
    if stands.state is State.DONE:
        raise ArtifactError(f"{stands.stage} is done; there is nothing to resume")


def _submit(again: Sequence[str], going: dict[str, tuple[str, ...]], book: Ledger) -> dict[str, tuple[str, ...]]:
    """New jobs for stages, in an order that respects what needs what."""
    made: dict[str, tuple[str, ...]] = {}
    try:
        for name in again:
            job = book.jobs[name]
            after = [(made | going)[need][-1] for need in job.needs if need in made or need in going]
            made[name] = ()
            for id_ in _submit_one(job, after, book):
                made[name] += (id_,)
    except ResourceError:
        queue.cancel([id_ for ids in made.values() for id_ in ids], login=book.place.ssh)
        raise
    return made


def _submit_one(job: Entry, after: Sequence[str], book: Ledger) -> Iterator[str]:
    """Submit the jobs of one stage, as many as it had (slurm/submitting.py says why several); the id of each at once.

    Args:
        after: jobs that must end well before.
    """
    chain = book.place.copies if book.place.restart is Restart.CHAIN else 1
    ids: list[str] = []
    for number in range(len(job.ids)):
        copy = number % chain
        if ids and copy == 0:  # the array's next pass
            after = ids[-1:]
        waits = [":".join(["afterok", *after])] * bool(after) + [f"afterany:{id_}" for id_ in ids[-1:] if copy > 0]
        option = [f"--dependency={','.join(waits)}"] if waits else []
        arguments = [*option, str(job.script), *([MORE] if copy < chain - 1 else [])]
        ids.append(sbatch.call(arguments, name=str(job.script), login=book.place.ssh))
        yield ids[-1]


def _alive(book: Ledger, stages: Sequence[str]) -> dict[str, Phase]:
    """The jobs of some stages that run or wait, in the order they were submitted."""
    ids = [id_ for name in stages for id_ in book.jobs[name].ids]
    known = queue.states(ids, login=book.place.ssh, accounting=False)
    return {id_: known[id_].phase for id_ in ids if id_ in known and known[id_].alive}


def _are_over(ids: Sequence[str], book: Ledger, *, seconds: float) -> bool:
    """Wait until no job of these runs, no longer than so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        known = queue.states(ids, login=book.place.ssh, accounting=False)
        if not any(state.alive for state in known.values()):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)


def _touch(files: Sequence[Path], login: SSH | None) -> None:
    """Here, for `status`, and where the jobs look."""
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    if login is not None and files:
        ssh.run(login, ["touch", *map(str, files)])


def _forget(files: Sequence[Path], login: SSH | None) -> None:
    for file in files:
        file.unlink(missing_ok=True)
    if login is not None and files:
        ssh.run(login, ["rm", "-f", *map(str, files)])
