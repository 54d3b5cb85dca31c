"""Verbs on recipes: what there is, what follows from one, and a whole study of them."""

from pathlib import Path
from typing import Annotated

import typer

from megatron_octo import recipes
from megatron_octo.cli.options import AsJson, DryRun, Force, Nodes, On, Overrides, Recipe
from megatron_octo.cli.running import run, typed
from megatron_octo.curation.config import Curation
from megatron_octo.launch import curation, place, verbs
from megatron_octo.launch.explain.show import describe_list, explain
from megatron_octo.launch.plan import planning, table
from megatron_octo.launch.study import graph, grounds


def list_() -> None:
    """Print every recipe."""
    typer.echo(describe_list(recipes.names()))


def show(
    recipe: Recipe,
    overrides: Overrides = None,
    nodes: Annotated[int, typer.Option(min=1, help="nodes")] = 1,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="GPUs per node")] = 8,
    throughput: Annotated[float | None, typer.Option(help="tokens/s/GPU; default: a derived one, stated")] = None,
) -> None:
    """Print a recipe's resolved config and what follows from it: steps, knots, tokens, memory, hours."""
    config = verbs.recipe(recipe, object, overrides or [])
    typer.echo(explain(config, nodes=nodes, gpus_per_node=gpus_per_node, throughput=throughput))


def study(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="a study, such as 'tiny'")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="study directory; default runs/STUDY")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="repeat the RL stage with this many seeds")] = None,
    corpus: Annotated[
        list[Path] | None, typer.Option(help="JSONL or Parquet text instead of the generated web corpus")
    ] = None,
    text_field: Annotated[
        str, typer.Option(help="field of --corpus; several, joined by newlines: question,answer")
    ] = "text",
    on: On = "local",
    nodes: Nodes = None,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Run a whole study: text to report. Run it again to continue where it stopped."""
    config = verbs.study_recipe(name, overrides or [])
    config = verbs.adapt_study(config, seeds=seeds, files=tuple(corpus or ()), text_field=text_field)
    here = on == place.LOCAL
    config = verbs.study_here(config) if here else config
    directory = out or Path("runs") / name
    jobs = graph.jobs(config, directory, command=typed())
    if not dry_run:
        grounds.require_inputs(config)
    if here and not dry_run:
        verbs.require_study_disk(config, jobs, directory)
    run(jobs, on, nodes, hold=directory, out=directory, dry=dry_run, force=force)
    if here and not dry_run:
        typer.echo(f"report: {directory / 'report' / 'report.html'}")


def plan_(
    name: Annotated[
        str,
        typer.Argument(
            metavar="STUDY", help="a study, such as llama32_3b, or a curation, such as megamath_web.pro_max"
        ),
    ],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="study directory; default runs/STUDY")] = None,
    throughput: Annotated[float | None, typer.Option(help="tokens/s/GPU; default: a derived one, stated")] = None,
    configs: Annotated[bool, typer.Option("--configs", help="every stage's resolved config as well")] = False,
    on: On = "local",
    nodes: Nodes = None,
    as_json: AsJson = False,
) -> None:
    """What a study would do and take: stages, GPU-hours, time, disk, price. Starts and writes nothing."""
    config = verbs.study_or_curation(name, overrides or [])
    directory = out or Path("runs") / name
    jobs = (
        curation.jobs(config, directory)
        if isinstance(config, Curation)
        else graph.jobs(config, directory, command=typed())
    )
    planned = planning.plan(jobs, place.find(on, directory=Path.cwd()), nodes, throughput=throughput)
    typer.echo(planning.as_json(planned) if as_json else table.as_text(planned, configs=configs))
