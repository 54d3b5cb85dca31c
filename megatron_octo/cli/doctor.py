"""`megatron-octo doctor`: this machine, a recipe on it, or a cluster."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from megatron_octo import packages, units
from megatron_octo.cli.options import AsJson, Nodes, On, Overrides
from megatron_octo.errors import ConfigError
from megatron_octo.launch import place, verbs
from megatron_octo.launch.preflight import checklist, submission
from megatron_octo.launch.preflight import doctor as health
from megatron_octo.launch.preflight.training import Assumed
from megatron_octo.rl.config import ReinforcementLearning
from megatron_octo.training.config import MidTraining


def doctor(
    recipe: Annotated[str | None, typer.Argument(help="a phase of mid-training or of RL: will it run here?")] = None,
    overrides: Overrides = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="processes; default: one per GPU, or one")] = None,
    stage: Annotated[
        list[str] | None, typer.Option(help="what must run here; default: what the tiny study needs")
    ] = None,
    on: On = "local",
    nodes: Nodes = None,
    shards: Annotated[Path | None, typer.Option(help="cluster: directory of tokenised corpora")] = None,
    init_from: Annotated[Path | None, typer.Option(help="cluster: what training starts from")] = None,
    gpu_memory: Annotated[str | None, typer.Option(help="cluster: of one GPU, such as 80GB")] = None,
    throughput: Annotated[float | None, typer.Option(help="cluster: tokens/s/GPU; default: a derived one")] = None,
    model: Annotated[Path | None, typer.Option(help="RL: Hugging Face directory to start from")] = None,
    prompts: Annotated[Path | None, typer.Option(help='RL: JSONL of {"question", "answer"}')] = None,
    eval_set: Annotated[list[str] | None, typer.Option(help="RL: NAME=FILE.jsonl of a set to evaluate on")] = None,
    out: Annotated[Path | None, typer.Option(help="RL, cluster: where the run would write")] = None,
    probe: Annotated[int, typer.Option(min=0, help="RL: prompts to sample from the model; 0: none")] = 16,
    as_json: AsJson = False,
) -> None:
    """Say what this machine has and lacks for each stage, and for a recipe; with --on, what a cluster would refuse."""
    where = place.find(on, directory=Path.cwd())
    kind = verbs.recipe(recipe, object, ()) if recipe is not None else None
    if where is not None:
        if recipe is None or not isinstance(kind, MidTraining):
            raise ConfigError("doctor --on PLACE takes a phase of mid-training, such as llama32_3b.stable")
        planned = submission.of_recipe(
            verbs.recipe(recipe, MidTraining, overrides or []),
            where,
            nodes=nodes,
            ranks=ranks or 1,
            out=out or Path("runs") / recipe,
            shards=shards,
            init_checkpoint=init_from,
            assumed=Assumed(
                gpu_bytes=units.parse_bytes(gpu_memory) if gpu_memory is not None else None, throughput=throughput
            ),
        )
        healthy = _say_checks(submission.examine(planned), as_json)
    elif recipe is not None and isinstance(kind, ReinforcementLearning):
        healthy = _rl(recipe, overrides or [], model, prompts, eval_set or [], out or Path(), probe)
    else:
        healthy = _here(recipe, overrides or [], ranks, stage or [])
    if not healthy:
        raise typer.Exit(1)


def _say_checks(checks: Sequence[checklist.Check], as_json: bool) -> bool:
    typer.echo(json.dumps(checklist.as_data(checks), indent=2) if as_json else checklist.table(checks))
    return checklist.passes(checks)


def _rl(
    recipe: str,
    overrides: list[str],
    model: Path | None,
    prompts: Path | None,
    eval_sets: list[str],
    out: Path,
    probe: int,
) -> bool:
    if model is None or prompts is None:
        raise ConfigError(f"{recipe} is RL; name what it would run on: --model DIR --prompts FILE --eval-set NAME=FILE")
    spec = verbs.recipe(recipe, ReinforcementLearning, overrides)
    packages.require(verbs.RL_MODULES[spec.engine])
    job = verbs.rl_job(spec, model=model, prompts=prompts, eval_sets=eval_sets)
    return health.preflight(job, out, prompts=probe)


def _here(recipe: str | None, overrides: list[str], ranks: int | None, stages: list[str]) -> bool:
    text, healthy = health.examine(Path.cwd(), stages=stages)
    typer.echo(text)
    if recipe is None:
        return healthy
    text, fits = health.examine_recipe(verbs.recipe(recipe, MidTraining, overrides), Path.cwd(), ranks=ranks)
    typer.echo(text)
    return healthy and fits
