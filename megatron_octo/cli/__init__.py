"""The command `megatron-octo`: a few verbs, a recipe name, `path=value`, and the same three options everywhere.

Heavy packages are imported by the stages' processes, never here: `--help`, `list`, `show` and `--dry-run` answer at once.
"""

import importlib.metadata
import signal
from collections.abc import Callable
from typing import Annotated

import typer

from megatron_octo import process
from megatron_octo.cli import doctor, evaluation, recipes, stages, started
from megatron_octo.errors import OctoError

#: In the order of `--help`.
VERBS: dict[str, Callable[..., None]] = {
    "list": recipes.list_,
    "show": recipes.show,
    "study": recipes.study,
    "plan": recipes.plan_,
    "runs": started.runs_,
    "curate": stages.curate,
    "tokenize": stages.tokenize,
    "train": stages.train,
    "convert": stages.convert,
    "rl": stages.rl,
    "eval": evaluation.eval_,
    "compare": evaluation.compare,
    "overlap": evaluation.overlap,
    "plot": stages.plot,
    "status": started.status_,
    "logs": started.logs_,
    "cancel": started.cancel,
    "resume": started.resume,
    "doctor": doctor.doctor,
}


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=lambda asked: _say_version() if asked else None,
            is_eager=True,
            help="print the version",
        ),
    ] = False,
) -> None:
    """The OctoThinker recipe: raw text to mid-training, reinforcement learning and a report."""


def _say_version() -> None:
    typer.echo(importlib.metadata.version("megatron-octo"))
    raise typer.Exit


for name, verb in VERBS.items():
    app.command(name)(verb)


def convert_checkpoint() -> None:
    """Entry point of tools/convert_checkpoint.py: one verb, which the line does not name."""
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    alone.command()(stages.convert)
    main(alone)


def main(program: typer.Typer = app) -> None:
    """Entry point: an error for people is one message and exit code 2."""
    signal.signal(signal.SIGTERM, process.interrupt)
    try:
        program()
    except (OctoError, OSError, KeyboardInterrupt) as error:
        raise SystemExit(process.explain(error)) from None
