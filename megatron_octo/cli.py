"""The command `megatron-octo`: a few verbs, a recipe name, `path=value`, and the same three options everywhere.

Heavy packages are imported by the stages' processes, never here: `--help`, `list`, `show` and `--dry-run` answer at once.
"""

import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from megatron_octo import process, recipes, units
from megatron_octo.conversion.config import Conversion, Direction, ExportDtype
from megatron_octo.curation.config import TinyWorld
from megatron_octo.errors import ConfigError, OctoError
from megatron_octo.evaluation.config import Engine, Evaluation, Export, Overlap, ShotSource
from megatron_octo.launch import doctor as health
from megatron_octo.launch import evaluations, explain, local, verbs
from megatron_octo.launch import study as graph
from megatron_octo.launch.jobs import Job
from megatron_octo.launch.jobs import dry_run as jobs_as_text
from megatron_octo.rl.config import ReinforcementLearning
from megatron_octo.templates import Template
from megatron_octo.tokenization.config import EngineName, OnBadLine
from megatron_octo.training.config import MidTraining, RunOptions

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

Recipe = Annotated[
    str, typer.Argument(metavar="RECIPE", help="a name from 'list', or your own as my_lab.runs:ablation_7")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[PATH=VALUE]...", help="changes to the recipe's fields")
]
Out = Annotated[Path, typer.Option(help="stage directory to make or to continue")]
DataDirectory = Annotated[
    Path | None,
    typer.Option(help="directory with <benchmark>.jsonl or .parquet; default: the Hugging Face hub"),
]
On = Annotated[str, typer.Option(help=f"place to run at: {', '.join(verbs.PLACES)}")]
Nodes = Annotated[int, typer.Option(min=1, help="nodes to use")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print what would run and start nothing")]
Force = Annotated[bool, typer.Option("--force", help="redo what was made with another config or other inputs")]


@app.command("list")
def list_() -> None:
    """Print every recipe."""
    typer.echo(explain.describe_list(recipes.names()))


@app.command()
def show(
    recipe: Recipe,
    overrides: Overrides = None,
    nodes: Nodes = 1,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="GPUs per node")] = 8,
    throughput: Annotated[float | None, typer.Option(help="tokens/s/GPU; default: a derived one, stated")] = None,
) -> None:
    """Print a recipe's resolved config and what follows from it: steps, knots, tokens, memory, hours."""
    config = verbs.recipe(recipe, object, overrides or [])
    typer.echo(explain.explain(config, nodes=nodes, gpus_per_node=gpus_per_node, throughput=throughput))


@app.command()
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
    nodes: Nodes = 1,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Run a whole study: text to report. Run it again to continue where it stopped."""
    config = verbs.study_recipe(name, overrides or [])
    config = verbs.adapt_study(config, seeds=seeds, files=tuple(corpus or ()), text_field=text_field)
    directory = out or Path("runs") / name
    jobs = graph.jobs(config, directory, command=shlex.join(["megatron-octo", *sys.argv[1:]]))
    verbs.require_place(on, nodes)
    if not dry_run:
        verbs.require_study_disk(config, directory)
    _run(jobs, hold=directory, out=directory, dry=dry_run, force=force)
    if not dry_run:
        typer.echo(f"report: {directory / 'report' / 'report.html'}")


@app.command()
def curate(
    recipe: Recipe, out: Out, overrides: Overrides = None, on: On = "local", nodes: Nodes = 1, dry_run: DryRun = False,
    force: Force = False,
) -> None:  # fmt: skip
    """Write the documents of a generated world, such as 'tiny.world'."""
    _run_one(verbs.curate(verbs.recipe(recipe, TinyWorld, overrides or []), out), on, nodes, dry_run, force)


@app.command()
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
    nodes: Nodes = 1,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Turn text into Megatron .bin/.idx shards. A killed run continues when run again."""
    settings = verbs.tokenization(
        corpus, overrides or [], inputs=tuple(input_ or ()), tokenizer=tokenizer, text_field=text_field,
        prepend_bos=prepend_bos, append_eod=append_eod, shuffle=shuffle, engine=engine, on_bad_line=on_bad_line,
        workers=workers or local.available_cores(), tasks=tasks, task=task,
    )  # fmt: skip
    _run_one(verbs.tokenize(settings, out), on, nodes, dry_run, force)


@app.command()
def train(
    recipe: Recipe,
    shards: Annotated[Path, typer.Option(help="directory of tokenised corpora, one per name of the blend")],
    out: Out,
    overrides: Overrides = None,
    init_from: Annotated[
        Path | None, typer.Option(help="the parent's directory (branch) or an imported model's")
    ] = None,
    ranks: Annotated[int, typer.Option(min=1, help="processes on this machine")] = 1,
    wandb: Annotated[
        str | None, typer.Option(metavar="PROJECT", help="log to this Weights & Biases project as well")
    ] = None,
    watchdog_seconds: Annotated[
        float, typer.Option(help="name a rank without progress for so long, and end the run")
    ] = RunOptions.watchdog_seconds,
    on: On = "local",
    nodes: Nodes = 1,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Train one phase: a stable run or a decay branch."""
    phase = verbs.recipe(recipe, MidTraining, overrides or [])
    options = RunOptions(wandb_project=wandb, watchdog_seconds=watchdog_seconds)
    job = verbs.train(phase, shards=shards, init_checkpoint=init_from, ranks=ranks, out=out, options=options)
    _run_one(job, on, nodes, dry_run, force)


@app.command()
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
    nodes: Nodes = 1,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Convert a checkpoint to Hugging Face, or back. A killed conversion continues when run again."""
    settings = Conversion(
        direction=direction, source=source, reference=reference, tokenizer=tokenizer, dtype=dtype, check=check,
        check_logits=check_logits, max_shard_bytes=units.parse_bytes(max_shard_size), workers=workers, tasks=tasks, task=task,
    )  # fmt: skip
    _run_one(verbs.convert(settings, destination), on, nodes, dry_run, force)


@app.command()
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
    nodes: Nodes = 1,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Reinforcement learning with verifiable rewards on one model."""
    spec = verbs.recipe(recipe, ReinforcementLearning, overrides or [])
    job = verbs.rl(spec, model=model, prompts=prompts, eval_sets=eval_set, out=out, restart_from=restart_from)
    _run_one(job, on, nodes, dry_run, force)


@app.command("eval")
def eval_(
    out: Out,
    model: Annotated[
        Path | None, typer.Argument(metavar="MODEL", help="Hugging Face directory; none with --server")
    ] = None,
    suite: Annotated[
        list[str] | None, typer.Option(help="math13, rl4, or a benchmark's name; several times for several")
    ] = None,
    dataset: Annotated[list[Path] | None, typer.Option(help='JSONL of {"question", "answer"} of your own')] = None,
    data: DataDirectory = None,
    template: Annotated[
        Template | None,
        typer.Option(
            help="zero-shot with this prompt, as after RL; default: few-shot for a suite, simple for --dataset"
        ),
    ] = None,
    template_file: Annotated[Path | None, typer.Option(help="a text of your own with {question} in it")] = None,
    num_shots: Annotated[
        int | None, typer.Option(min=0, help="few-shot examples; default: as the benchmark says")
    ] = None,
    shots: Annotated[ShotSource, typer.Option(help="where examples come from")] = ShotSource.TRAIN,
    shots_file: Annotated[Path | None, typer.Option(help="examples of your own, for every benchmark")] = None,
    lenient: Annotated[
        bool | None,
        typer.Option("--lenient/--strict", help="whether an answer in no box counts; default: with few-shot prompts"),
    ] = None,
    engine: Annotated[Engine | None, typer.Option(help="who answers; default: transformers, or the server")] = None,
    server: Annotated[str | None, typer.Option(help="URL of an OpenAI-compatible server, up to /v1")] = None,
    served_model: Annotated[str | None, typer.Option(help="the model's name at the server")] = None,
    samples: Annotated[int, typer.Option(min=1, help="responses per question, for pass@k; needs a temperature")] = 1,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0, max=1)] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="most tokens of a response")] = 1024,
    batch_size: Annotated[int, typer.Option(min=1, help="responses generated together (transformers)")] = 32,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first so many questions of each benchmark")] = None,
    seed: Annotated[int, typer.Option(help="of sampling")] = 1234,
    export: Annotated[
        Export | None, typer.Option(help="write the same prompts as tasks for this harness to OUT, and answer nothing")
    ] = None,
    on: On = "local",
    nodes: Nodes = 1,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Score one model on benchmarks or on questions of your own: accuracy with intervals, pass@k, lengths, samples."""
    few_shot = bool(suite) and template is None and template_file is None
    settings = Evaluation(
        model=model,
        server=evaluations.server(server, served_model),
        engine=engine or (Engine.SERVER if server else Engine.TRANSFORMERS),
        benchmarks=evaluations.sources(suite or [], datasets=dataset or [], data=data, shots_file=shots_file),
        template=None if few_shot else template or (Template.FILE if template_file else Template.SIMPLE),
        template_file=template_file,
        num_shots=num_shots,
        shots=shots,
        lenient=lenient,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        samples_per_question=samples,
        temperature=temperature,
        top_p=top_p,
        limit=limit,
        seed=seed,
    )
    _run_one(verbs.evaluate(settings, out, export=export), on, nodes, dry_run, force)


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="an evaluation's directory")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="another's, on the same questions")],
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Difference of two models on the same questions, with interval and paired test."""
    raise typer.Exit(evaluations.compare(before, after, as_json=as_json))


@app.command()
def overlap(
    shards: Annotated[Path, typer.Argument(metavar="SHARDS", help="directory with the shards of each corpus")],
    tokenizer: Annotated[Path, typer.Option(help="the tokenizer they were made with")],
    out: Out,
    suite: Annotated[list[str] | None, typer.Option(help="a suite's or a benchmark's name")] = None,
    dataset: Annotated[list[Path] | None, typer.Option(help='JSONL of {"question", "answer"} of your own')] = None,
    data: DataDirectory = None,
    ngram: Annotated[int, typer.Option(min=2, help="words in a row that both must have")] = 13,
    max_documents: Annotated[int | None, typer.Option(min=1, help="per corpus, evenly spread; default: all")] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 1,
    on: On = "local",
    nodes: Nodes = 1,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """How much of each benchmark stands in the documents that were trained on."""
    settings = Overlap(
        benchmarks=evaluations.sources(suite or [], datasets=dataset or [], data=data, shots_file=None),
        shards=shards,
        tokenizer=tokenizer,
        ngram=ngram,
        max_documents=max_documents,
        workers=workers,
    )
    _run_one(verbs.overlap(settings, out), on, nodes, dry_run, force)


@app.command()
def plot(
    out: Out,
    directory: Annotated[Path | None, typer.Argument(metavar="[STUDY_DIR]", help="directory of a study")] = None,
    published: Annotated[
        Path | None, typer.Option(help="curves as CSV exports of W&B (verl's names), such as the paper's plot/data")
    ] = None,
    on: On = "local",
    nodes: Nodes = 1,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Draw a study's figures and report again, or those of published curves."""
    if (directory is None) == (published is None):
        raise ConfigError("name a study's directory, or curves with --published DIR, and not both")
    jobs = [verbs.plot(directory, out)] if directory is not None else []
    jobs += [verbs.plot_published(published, out)] if published is not None else []
    _run_one(jobs[0], on, nodes, dry_run, force)


@app.command()
def doctor(
    recipe: Annotated[str | None, typer.Argument(help="a phase of mid-training or of RL: will it run here?")] = None,
    overrides: Overrides = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="processes; default: one per GPU, or one")] = None,
    model: Annotated[Path | None, typer.Option(help="RL: Hugging Face directory to start from")] = None,
    prompts: Annotated[Path | None, typer.Option(help='RL: JSONL of {"question", "answer"}')] = None,
    eval_set: Annotated[list[str] | None, typer.Option(help="RL: NAME=FILE.jsonl of a set to evaluate on")] = None,
    out: Annotated[Path, typer.Option(help="RL: where the run would write")] = Path(),
    probe: Annotated[int, typer.Option(min=0, help="RL: prompts to sample from the model; 0: none")] = 16,
) -> None:
    """Say what this machine has and lacks for each stage, and for a recipe."""
    kind = verbs.recipe(recipe, object, ()) if recipe is not None else None
    if recipe is not None and isinstance(kind, ReinforcementLearning):
        if model is None or prompts is None:
            raise ConfigError(
                f"{recipe} is RL; name what it would run on: --model DIR --prompts FILE --eval-set NAME=FILE"
            )
        spec = verbs.recipe(recipe, ReinforcementLearning, overrides or [])
        health.require(verbs.RL_MODULES[spec.engine])
        job = verbs.rl_job(spec, model=model, prompts=prompts, eval_sets=eval_set or [])
        if not health.preflight(job, out, prompts=probe):
            raise typer.Exit(1)
        return
    text, healthy = health.examine(Path.cwd())
    typer.echo(text)
    if recipe is not None:
        phase = verbs.recipe(recipe, MidTraining, overrides or [])
        text, fits = health.examine_recipe(phase, Path.cwd(), ranks=ranks)
        typer.echo(text)
        healthy = healthy and fits
    if not healthy:
        raise typer.Exit(1)


def _run_one(job: Job, on: str, nodes: int, dry: bool, force: bool) -> None:
    verbs.require_place(on, nodes)
    _run([job], hold=job.logs, out=job.out, dry=dry, force=force)


def _run(jobs: list[Job], *, hold: Path, out: Path, dry: bool, force: bool) -> None:
    """Run jobs, or print what would run. Nobody else may hold the directory `hold` meanwhile."""
    if dry:
        typer.echo(jobs_as_text(jobs))
        return
    with local.exclusive(hold, output=out):
        local.run(jobs, force=force)


def convert_checkpoint() -> None:
    """Entry point of tools/convert_checkpoint.py: one verb, which the line does not name."""
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    alone.command()(convert)
    main(alone)


def main(program: typer.Typer = app) -> None:
    """Entry point: an error for people is one message and exit code 2."""
    signal.signal(signal.SIGTERM, process.interrupt)
    try:
        program()
    except (OctoError, OSError, KeyboardInterrupt) as error:
        raise SystemExit(process.explain(error)) from None


if __name__ == "__main__":
    main()
