"""From a verb to processes: jobs run here, go to a cluster, or are printed."""

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import typer

from megatron_octo.launch import cluster, local, place, provenance, verbs
from megatron_octo.launch.jobs import Job, write_config
from megatron_octo.launch.jobs import dry_run as jobs_as_text


def run_one(job: Job, on: str, nodes: int | None, dry: bool, force: bool) -> None:
    """Run a stage of its own, as `run` does a study."""
    run([job], on, nodes, hold=job.logs, out=job.out, dry=dry, force=force)


def run(jobs: list[Job], on: str, nodes: int | None, *, hold: Path, out: Path, dry: bool, force: bool) -> None:
    """Run jobs here or hand them to a cluster, or print what would run. Nobody else may hold the directory `hold` meanwhile."""
    where = place.find(on, directory=Path.cwd())
    if where is not None:
        verbs.require_no_force(force, out)
        cluster.run(jobs, where, nodes, hold, typed(), dry)
        return
    verbs.require_one_node(nodes)
    if dry:
        typer.echo(jobs_as_text(jobs))
        return
    with local.exclusive(hold, output=out):
        if len(jobs) > 1:
            provenance.note(hold, jobs, command=typed())
        local.run(jobs, force=force, starting=_recorder(jobs))


def _recorder(jobs: Sequence[Job]) -> Callable[[Job], None]:
    """Writes a job's config, and where it comes from, beside it."""
    record = provenance.recorder(jobs, None, command=typed())

    def starting(job: Job) -> None:
        write_config(job)
        record(job)

    return starting


def typed() -> str:
    """The command as people can paste it again."""
    return shlex.join(["megatron-octo", *sys.argv[1:]])
