"""Verbs on the directory of what was started, here or on a cluster: where it stands, what it says, how to stop it and go on."""

from pathlib import Path
from typing import Annotated

import typer

from megatron_octo.cli.options import AsJson, StudyDirectory
from megatron_octo.launch import control
from megatron_octo.launch.jobs import logs_beside
from megatron_octo.launch.slurm import ledger
from megatron_octo.launch.status import logs, runs, standing, states


def runs_(directory: StudyDirectory, as_json: AsJson = False) -> None:
    """Which stage fed which, with commits, hosts and submissions; inputs that changed since are named."""
    found = runs.read(directory)
    typer.echo(runs.as_json(found) if as_json else runs.as_text(found))


def status_(directory: StudyDirectory, as_json: AsJson = False) -> None:
    """Where every stage stands. Leaves with 0 when all are done, 3 while some go on or wait, 1 when one failed."""
    stages = standing.status(_noted(directory))
    typer.echo(states.as_json(stages) if as_json else states.as_table(stages))
    raise typer.Exit(states.exit_code(stages))


def logs_(
    directory: StudyDirectory,
    stage: Annotated[str, typer.Argument(help="a stage's name, such as decay_long or rl/long/seed0")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until the stage is over")] = False,
    session: Annotated[int | None, typer.Option(min=0, help="default: the newest")] = None,
    rank: Annotated[int, typer.Option(min=0, help="the process that speaks")] = 0,
) -> None:
    """What a stage says; after a failure the first failing rank's last words."""
    code = logs.show(
        _noted(directory),
        stage,
        follow=follow,
        session=session,
        rank=rank,
        write=lambda text: typer.echo(text, nl=False),
    )
    raise typer.Exit(code)


def cancel(
    directory: StudyDirectory,
    stage: Annotated[str | None, typer.Argument(help="a stage, with all that need it; default: everything")] = None,
) -> None:
    """Stop what runs on the cluster, after it saved, and what waits."""
    stopped = control.cancel(_noted(directory), stage)
    typer.echo(f"cancelled: {', '.join(stopped)}" if stopped else "nothing was running or waiting")


def resume(
    directory: StudyDirectory,
    stage: Annotated[str | None, typer.Argument(help="a stage, with all it needs; default: everything")] = None,
) -> None:
    """Submit again what is not done."""
    submitted = control.resume(_noted(directory), stage)
    for name, job in submitted.items():
        typer.echo(f"{name}: job {job}")
    if not submitted:
        typer.echo("everything is done, runs or waits")


def _noted(directory: Path) -> Path:
    """Where a submission was noted down: in a study's directory, or beside that of a single stage, which holds results alone."""
    beside = logs_beside(directory)
    return beside if ledger.exists(beside) else directory
