"""Asks Slurm about jobs and cancels them, here or on a login node. `squeue` alone is enough; `sacct` adds what it forgot.

Slurm forgets a job some minutes after its end (`MinJobAge`, 300 s): an id that is missing from an answer is over, and the files
beside the run say how. Text formats rather than `--json`, which changes with every release and needs a plugin.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from megatron_octo.errors import ResourceError
from megatron_octo.launch.place import SSH
from megatron_octo.launch.slurm import ssh

#: Array or own job id, state, reason, nodes, (expected) start; one line per task of an array.
_SQUEUE = ("squeue", "--noheader", "--array", "--states=all", "--format=%F|%T|%r|%N|%S")
_SACCT = ("sacct", "--noheader", "--allocations", "--parsable2", "--format=JobID,State,Reason,NodeList,Start")
#: Said where not one of the ids is known; where some are, the others are left out.
_UNKNOWN = "Invalid job id"
#: What Slurm prints for nothing.
_NOTHING = {"", "None", "N/A", "(null)", "Unknown", "None assigned"}


class Phase(Enum):
    """Slurm's two dozen states, as far as they differ for us; the worse ones of an array's tasks come first."""

    RUNNING = "running"
    QUEUED = "queued"
    FAILED = "failed"
    CANCELLED = "cancelled"
    COMPLETED = "completed"


_RUNNING = {"RUNNING", "COMPLETING", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT", "SUSPENDED", "STOPPED"}
_QUEUED = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}


@dataclass(frozen=True, kw_only=True)
class SlurmState:
    """What Slurm says about one job, or about the task of an array that matters most."""

    id: str
    #: Slurm's own word: PENDING, NODE_FAIL, ...
    word: str
    #: Why it is not running, or how it ended, in Slurm's own word: Priority, DependencyNeverSatisfied, NonZeroExitCode.
    reason: str | None = None
    #: `node[1-4]`
    nodes: str | None = None
    #: When it started, or where it waits, when Slurm expects it to: cluster time, 2026-11-23T13:53:24.
    start: str | None = None

    @property
    def phase(self) -> Phase:
        if self.word in _RUNNING:
            return Phase.RUNNING
        if self.word in _QUEUED:
            return Phase.QUEUED
        return {"CANCELLED": Phase.CANCELLED, "COMPLETED": Phase.COMPLETED}.get(self.word, Phase.FAILED)

    @property
    def alive(self) -> bool:
        """Whether it runs or will run."""
        return self.phase in (Phase.RUNNING, Phase.QUEUED)


def states(ids: Sequence[str], *, login: SSH | None, accounting: bool) -> dict[str, SlurmState]:
    """What Slurm knows about jobs, by id; those it forgot are missing. At most two commands, however many jobs.

    Raises `ResourceError` where Slurm does not answer.
    """
    if not ids:
        return {}
    known = parse(_ask([*_SQUEUE, f"--jobs={','.join(ids)}"], login))
    forgotten = [id_ for id_ in ids if id_ not in known]
    if accounting and forgotten:
        known |= parse(_ask([*_SACCT, f"--jobs={','.join(forgotten)}"], login))
    return known


def cancel(ids: Sequence[str], *, login: SSH | None, waiting_only: bool = False) -> None:
    """Cancel jobs, or of each only what waits; what is over already stays as it is. Returns before their processes are gone: Slurm
    kills what has not left after its `KillWait`, 30 s where nobody set it. Raises `ResourceError`."""
    if ids:
        _ask(["scancel", *(["--state=PENDING"] if waiting_only else []), *ids], login)


def ask_to_stop(ids: Sequence[str], *, login: SSH | None) -> None:
    """SIGTERM to the processes of running jobs, not to their batch scripts: they may take as long as they need to save.

    Raises `ResourceError`.
    """
    if ids:
        _ask(["scancel", "--signal=TERM", *ids], login)


def parse(text: str) -> dict[str, SlurmState]:
    """The lines of `squeue` or `sacct` by job id, the tasks of an array as one.

    >>> parse("7|PENDING|Priority||N/A")
    {'7': SlurmState(id='7', word='PENDING', reason='Priority', nodes=None, start=None)}
    """
    jobs: dict[str, list[SlurmState]] = {}
    for line in text.splitlines():
        task, word, reason, nodes, start = line.split("|")
        # sacct: `7_1` for a task of an array, `7_[2-9]` for those that wait, `CANCELLED by 1000`.
        id_, word = re.split("[_+.]", task)[0], word.split()[0].rstrip("+")
        state = SlurmState(id=id_, word=word, reason=_given(reason), nodes=_given(nodes), start=_given(start))
        jobs.setdefault(id_, []).append(state)
    return {id_: together(tasks) for id_, tasks in jobs.items()}


def together(tasks: Sequence[SlurmState]) -> SlurmState:
    """Of an array's tasks or a chain's copies, one at least: it runs while one does, and is over when all are; then the worst end counts."""
    order = list(Phase)
    return min(tasks, key=lambda task: order.index(task.phase))


def _given(text: str) -> str | None:
    return None if text.strip() in _NOTHING else text.strip()


def _ask(arguments: Sequence[str], login: SSH | None) -> str:
    answer = ssh.run(login, arguments)
    # scancel finds no job to signal that has just ended: it leaves with 1, and has nothing to say about it.
    too_late = arguments[0] == "scancel" and not answer.stderr.strip()
    if answer.returncode != 0 and _UNKNOWN not in answer.stderr and not too_late:
        raise ResourceError(
            f"Slurm does not answer: '{arguments[0]}' said '{(answer.stderr or answer.stdout).strip()}'; run this on a login node, "
            "name one as `ssh` in the place, or set `accounting: false` where sacct is missing"
        )
    return answer.stdout
