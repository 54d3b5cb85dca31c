"""From a verb to processes: jobs run here, go to a cluster, or are printed."""

import shlex
import sys
from pathlib import Path

import typer

from megatron_octo.launch import cluster, local, place, verbs
from megatron_octo.launch.jobs import Job
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
        local.run(jobs, force=force)


def typed() -> str:
    """The command as people can paste it again."""
    return shlex.join(["megatron-octo", *sys.argv[1:]])
