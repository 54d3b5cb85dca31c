"""Which submissions a batch of jobs takes, in which order, and the shell lines that make them."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from megatron_octo.launch.jobscript.batch import BatchJob
from megatron_octo.launch.place import Place, Restart, Submitter

#: What a batch script is given where another copy of a chain follows.
MORE = "more"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One call of sbatch."""

    #: Unique in a batch.
    name: str
    batch: BatchJob
    #: Names of submissions that must have ended well, or in whatever way.
    after_ok: tuple[str, ...] = ()
    after_any: tuple[str, ...] = ()
    #: Arguments of the batch script.
    arguments: tuple[str, ...] = ()


class Submits(Protocol):
    """Hands the written files of a batch to Slurm."""

    def __call__(self, submissions: Sequence[Submission], place: Place, *, study: Path) -> dict[str, str]:
        """Slurm's job ids by the submission's name. Raises `ResourceError`; then nothing of the batch is left in the queue."""


def submitter(place: Place) -> Submits:
    """Who submits to a place. Imports nothing of NeMo-Run before it is called."""
    from megatron_octo.launch.slurm import nemo, sbatch

    return {Submitter.NEMO_RUN: nemo.submit, Submitter.SBATCH: sbatch.submit}[place.submitter]


def submissions(batch: Sequence[BatchJob], place: Place) -> list[Submission]:
    """Every submission after those it waits for: arrays once per pass, and where jobs may not requeue, each as a chain of copies."""
    made: list[Submission] = []
    last: dict[str, str] = {}
    for one in batch:
        after = tuple(last[need] for need in one.job.needs if need in last)
        for _ in range(one.passes):
            for copy in range(place.copies if place.restart is Restart.CHAIN else 1):
                made.append(_submission(one, made, after_ok=after, copy=copy, place=place))
            after = (made[-1].name,)
        last[one.job.name] = made[-1].name
    return made


def _submission(
    one: BatchJob, made: Sequence[Submission], *, after_ok: tuple[str, ...], copy: int, place: Place
) -> Submission:
    number = sum(other.batch is one for other in made)
    follows = place.restart is Restart.CHAIN and copy < place.copies - 1
    return Submission(
        name=one.name if number == 0 else f"{one.name}-{number + 1}",
        batch=one,
        after_ok=after_ok,
        after_any=(made[-1].name,) if copy > 0 else (),
        arguments=(MORE,) if follows else (),
    )


def dependency(one: Submission, ids: dict[str, str]) -> list[str]:
    """The option of sbatch that makes a submission wait, given what stands for the others' ids."""
    kinds = {"afterok": one.after_ok, "afterany": one.after_any}
    waits = [":".join([kind, *(ids[name] for name in names)]) for kind, names in kinds.items() if names]
    return [f"--dependency={','.join(waits)}"] if waits else []


def shell_lines(made: Sequence[Submission]) -> str:
    """A shell script that submits the written files: to read, to paste, to change."""
    variables = {one.name: f"job{number}" for number, one in enumerate(made, 1)}
    ids = {name: f"${variable}" for name, variable in variables.items()}
    lines = ["#!/usr/bin/env bash", "set -euo pipefail"]
    for one in made:
        words = " ".join([*dependency(one, ids), shlex.quote(str(one.batch.script)), *one.arguments])
        lines += [f"# {one.name}", f"{variables[one.name]}=$(sbatch --parsable {words})"]
    return "\n".join([*lines, "echo " + " ".join(ids.values()), ""])
