"""Verbs that make a stage: a recipe or options in, one job out."""

from pathlib import Path
from typing import Annotated

import typer

from megatron_octo import units
from megatron_octo.cli.options import DryRun, Force, Nodes, On, Out, Overrides, Recipe
from megatron_octo.cli.running import run, run_one
from megatron_octo.conversion.config import Conversion, Direction, ExportDtype
from megatron_octo.curation.config import Curation
from megatron_octo.errors import ConfigError
from megatron_octo.launch import curation, local, place, verbs
from megatron_octo.launch.preflight import checklist
from megatron_octo.launch.preflight.checklist import Check
from megatron_octo.launch.preflight.curation import examine
from megatron_octo.rl.config import ReinforcementLearning
from megatron_octo.tokenization.config import EngineName, OnBadLine
from megatron_octo.training.config import MidTraining, RunOptions


def curate(
    recipe: Recipe,
    out: Out,
    overrides: Overrides = None,
    input_: Annotated[
        list[Path] | None,
        typer.Option("--input", help="files, directories, globs of JSONL (.gz, .zst), Parquet, WARC; several times"),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="processes; default: all cores here, one on a cluster")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="directory with the benchmarks' questions, <benchmark>.jsonl or .parquet; default: the hub"),
    ] = None,
    on: On = "local",
    nodes: Nodes = None,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Make documents: a whole curation, a published data set in the blend's format, or a generated world."""
    here = on == place.LOCAL
    cores = local.available_cores() if here else None
    chosen = verbs.curation_recipe(recipe, overrides or [], inputs=tuple(input_ or ()), workers=workers or cores)
    if not isinstance(chosen, Curation):
        if data is not None:
            raise ConfigError(f"--data names benchmarks to look for, and a {type(chosen).__name__} looks for none")
        run_one(verbs.curate(chosen, out), on, nodes, dry_run, force)
        return
    chosen = curation.here(chosen) if here else chosen
    chosen = curation.with_benchmarks(chosen, data) if data is not None else chosen
    jobs = curation.jobs(chosen, out)
    if not dry_run:
        _require_checks(examine(chosen, jobs, out, place.find(on, directory=Path.cwd())))
    run(jobs, on, nodes, hold=out, out=out, dry=dry_run, force=force)
    if dry_run:
        _require_checks(examine(chosen, jobs, out, place.find(on, directory=Path.cwd())))
    elif here:
        typer.echo(f"corpus: {out / 'corpus' / 'data'}")


def _require_checks(checks: list[Check]) -> None:
    """Show them. Raises `ConfigError` where one fails."""
    if checks:
        typer.echo(checklist.table(checks), err=True)
    if not checklist.passes(checks):
        raise ConfigError("nothing was begun: mend what FAIL names, and run the same command again")


def tokenize(
    corpus: Annotated[
        str,
        typer.Argument(
            metavar="CORPUS|RECIPE", help="name of the corpus in blends; or a recipe, such as text.megamath_web_pro"
        ),
    ],
    out: Out,
    overrides: Overrides = None,
    input_: Annotated[
        list[Path] | None,
        typer.Option("--input", help="files, directories, globs of JSONL (.gz, .zst), Parquet, Arrow; several times"),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Hugging Face directory, SentencePiece model or tiktoken ranks")
    ] = None,
    text_field: Annotated[
        str | None, typer.Option(help="dotted path of the text; several: question,answer; messages become turns")
    ] = None,
    prepend_bos: Annotated[bool | None, typer.Option(help="put BOS before every document; default: no")] = None,
    append_eod: Annotated[bool | None, typer.Option(help="put EOS after every document; default: yes")] = None,
    shuffle: Annotated[
        bool | None, typer.Option(help="shuffle documents across the corpus (shuffle_seed=N changes how); default: yes")
    ] = None,
    engine: Annotated[EngineName | None, typer.Option(help="default: the fastest that reads the tokenizer")] = None,
    on_bad_line: Annotated[OnBadLine | None, typer.Option(help="default: stop; skip writes them aside")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="processes; default: all cores")] = None,
    tasks: Annotated[int, typer.Option(min=1, help="machines or array tasks that share the corpus")] = 1,
    task: Annotated[int, typer.Option(min=0, help="which of them this is, from 0")] = 0,
    on: On = "local",
    nodes: Nodes = None,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Turn text into Megatron .bin/.idx shards. A killed run continues when run again."""
    settings = verbs.tokenization(
        corpus, overrides or [], inputs=tuple(input_ or ()), tokenizer=tokenizer, text_field=text_field,
        prepend_bos=prepend_bos, append_eod=append_eod, shuffle=shuffle, engine=engine, on_bad_line=on_bad_line,
        workers=workers or local.available_cores(), tasks=tasks, task=task,
    )  # fmt: skip
    run_one(verbs.tokenize(settings, out), on, nodes, dry_run, force)


def train(
    recipe: Recipe,
    shards: Annotated[Path, typer.Option(help="directory of tokenised corpora, one per name of the blend")],
    out: Out,
    overrides: Overrides = None,
    init_from: Annotated[
        Path | None, typer.Option(help="the parent's directory (branch) or an imported model's")
    ] = None,
    ranks: Annotated[int, typer.Option(min=1, help="processes, on this machine or on a cluster without GPUs")] = 1,
    wandb: Annotated[
        str | None, typer.Option(metavar="PROJECT", help="log to this Weights & Biases project as well")
    ] = None,
    watchdog_seconds: Annotated[
        float, typer.Option(help="name a rank without progress for so long, and end the run")
    ] = RunOptions.watchdog_seconds,
    on: On = "local",
    nodes: Nodes = None,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Train one phase: a stable run or a decay branch."""
    phase = verbs.recipe(recipe, MidTraining, overrides or [])
    options = RunOptions(wandb_project=wandb, watchdog_seconds=watchdog_seconds)
    if on == place.LOCAL:
        verbs.require_runs_here(phase, ranks)
    job = verbs.train(phase, shards=shards, init_checkpoint=init_from, ranks=ranks, out=out, options=options)
    run_one(job, on, nodes, dry_run, force)


def convert(
    direction: Annotated[Direction, typer.Argument(help="to-hf: Megatron to Hugging Face; from-hf: back")],
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC",
            help="to-hf: training stage, one of its checkpoints, Megatron-LM checkpoint; from-hf: Hugging Face directory",
        ),
    ],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="directory to make")],
    reference: Annotated[
        Path | None,
        typer.Option(
            help="to-hf: Hugging Face directory whose config, tokenizer and licence to carry over; default: the imported model's"
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="to-hf: directory of the tokenizer files to carry over")
    ] = None,
    dtype: Annotated[
        ExportDtype, typer.Option(help="number format of the weights; auto: as stored")
    ] = ExportDtype.AUTO,
    check: Annotated[bool, typer.Option("--check", help="read both again and compare every tensor")] = False,
    check_logits: Annotated[
        bool, typer.Option("--check-logits", help="compare both models' logits (CPU, fp32)")
    ] = False,
    max_shard_size: Annotated[str, typer.Option(help="largest file, such as 5GB or 500MB")] = "5GB",
    workers: Annotated[int, typer.Option(min=1, help="threads that copy")] = Conversion.workers,
    tasks: Annotated[int, typer.Option(min=1, help="machines or array tasks that share the conversion")] = 1,
    task: Annotated[int, typer.Option(min=0, help="which of them this is, from 0")] = 0,
    on: On = "local",
    nodes: Nodes = None,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Convert a checkpoint to Hugging Face, or back. A killed conversion continues when run again."""
    settings = Conversion(
        direction=direction, source=source, reference=reference, tokenizer=tokenizer, dtype=dtype, check=check,
        check_logits=check_logits, max_shard_bytes=units.parse_bytes(max_shard_size), workers=workers, tasks=tasks, task=task,
    )  # fmt: skip
    run_one(verbs.convert(settings, destination), on, nodes, dry_run, force)


def rl(
    recipe: Recipe,
    model: Annotated[Path, typer.Option(help="Hugging Face directory to start from")],
    prompts: Annotated[Path, typer.Option(help='JSONL of {"question", "answer"}')],
    eval_set: Annotated[list[str], typer.Option(help="NAME=FILE.jsonl of a set the recipe evaluates on")],
    out: Out,
    overrides: Overrides = None,
    restart_from: Annotated[
        int | None, typer.Option(min=0, help="forget what came after this step's checkpoint and go on from it")
    ] = None,
    on: On = "local",
    nodes: Nodes = None,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Reinforcement learning with verifiable rewards on one model."""
    spec = verbs.recipe(recipe, ReinforcementLearning, overrides or [])
    job = verbs.rl(spec, model=model, prompts=prompts, eval_sets=eval_set, out=out, restart_from=restart_from)
    run_one(job, on, nodes, dry_run, force)


def plot(
    out: Out,
    directory: Annotated[Path | None, typer.Argument(metavar="[STUDY_DIR]", help="directory of a study")] = None,
    published: Annotated[
        Path | None, typer.Option(help="curves as CSV exports of W&B (verl's names), such as the paper's plot/data")
    ] = None,
    on: On = "local",
    nodes: Nodes = None,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Draw a study's figures and report again, or those of published curves."""
    if (directory is None) == (published is None):
        raise ConfigError("name a study's directory, or curves with --published DIR, and not both")
    jobs = [verbs.plot(directory, out)] if directory is not None else []
    jobs += [verbs.plot_published(published, out)] if published is not None else []
    run_one(jobs[0], on, nodes, dry_run, force)
