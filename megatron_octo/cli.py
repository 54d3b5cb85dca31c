"""The command `megatron-octo`: a few verbs, a recipe name, `path=value`, and the same three options everywhere.

Heavy packages are imported by the stages' processes, never here: `--help`, `list`, `show` and `--dry-run` answer at once.
"""

import json
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from megatron_octo import process, recipes, units
from megatron_octo.conversion.config import Conversion, Direction, ExportDtype
from megatron_octo.curation.config import TinyWorld
from megatron_octo.errors import ConfigError, OctoError
from megatron_octo.evaluation.config import Engine, Evaluation, Export, Overlap, ShotSource
from megatron_octo.launch import (
    checklist,
    cluster,
    control,
    evaluations,
    explain,
    ledger,
    local,
    logs,
    place,
    plan,
    plan_text,
    preflight,
    runs,
    stage_status,
    status,
    study_grounds,
    verbs,
)
from megatron_octo.launch import doctor as health
from megatron_octo.launch import study as graph
from megatron_octo.launch.jobs import Job, logs_beside
from megatron_octo.launch.jobs import dry_run as jobs_as_text
from megatron_octo.launch.preflight_training import Assumed
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
    typer.Option(
        help="directory with <benchmark>.jsonl or .parquet, and .train.jsonl for examples; default: the Hugging Face hub"
    ),
]
On = Annotated[
    str, typer.Option(help="place to run at: local, or a file of yours that names a cluster (docs/cluster.md)")
]
StudyDirectory = Annotated[Path, typer.Argument(metavar="DIR", help="directory of a study, or of one stage")]
AsJson = Annotated[bool, typer.Option("--json", help="for programs")]
Nodes = Annotated[int | None, typer.Option(min=1, help="nodes of training on a cluster; default: one")]
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
    nodes: Annotated[int, typer.Option(min=1, help="nodes")] = 1,
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
    jobs = graph.jobs(config, directory, command=_typed())
    if not dry_run:
        study_grounds.require_inputs(config)
    if here and not dry_run:
        verbs.require_study_disk(config, jobs, directory)
    _run(jobs, on, nodes, hold=directory, out=directory, dry=dry_run, force=force)
    if here and not dry_run:
        typer.echo(f"report: {directory / 'report' / 'report.html'}")


@app.command("plan")
def plan_(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="a study, such as llama32_3b")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="study directory; default runs/STUDY")] = None,
    throughput: Annotated[float | None, typer.Option(help="tokens/s/GPU; default: a derived one, stated")] = None,
    configs: Annotated[bool, typer.Option("--configs", help="every stage's resolved config as well")] = False,
    on: On = "local",
    nodes: Nodes = None,
    as_json: AsJson = False,
) -> None:
    """What a study would do and take: stages, GPU-hours, time, disk, price. Starts and writes nothing."""
    config = verbs.study_recipe(name, overrides or [])
    jobs = graph.jobs(config, out or Path("runs") / name, command=_typed())
    planned = plan.plan(jobs, place.find(on, directory=Path.cwd()), nodes, throughput=throughput)
    typer.echo(plan.as_json(planned) if as_json else plan_text.as_text(planned, configs=configs))


@app.command("runs")
def runs_(directory: StudyDirectory, as_json: AsJson = False) -> None:
    """Which stage fed which, with commits, hosts and submissions; inputs that changed since are named."""
    found = runs.read(directory)
    typer.echo(runs.as_json(found) if as_json else runs.as_text(found))


@app.command()
def curate(
    recipe: Recipe, out: Out, overrides: Overrides = None, on: On = "local", nodes: Nodes = None, dry_run: DryRun = False,
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
    nodes: Nodes = None,
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
    nodes: Nodes = None,
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
            help="zero-shot with this prompt, as after RL; default: few-shot for a suite, simple for --dataset without shots"
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
    nodes: Nodes = None,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Score one model on benchmarks or on questions of your own: accuracy with intervals, pass@k, lengths, samples."""
    settings = Evaluation(
        model=model,
        server=evaluations.server(server, served_model),
        engine=engine or (Engine.SERVER if server else Engine.TRANSFORMERS),
        benchmarks=evaluations.sources(suite or [], datasets=dataset or [], data=data, shots_file=shots_file),
        template=evaluations.template(
            template, template_file, suites=suite or [], num_shots=num_shots, shots_file=shots_file
        ),
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
    nodes: Nodes = None,
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
    nodes: Nodes = None,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Draw a study's figures and report again, or those of published curves."""
    if (directory is None) == (published is None):
        raise ConfigError("name a study's directory, or curves with --published DIR, and not both")
    jobs = [verbs.plot(directory, out)] if directory is not None else []
    jobs += [verbs.plot_published(published, out)] if published is not None else []
    _run_one(jobs[0], on, nodes, dry_run, force)


@app.command("status")
def status_(directory: StudyDirectory, as_json: AsJson = False) -> None:
    """Where every stage stands. Leaves with 0 when all are done, 3 while some go on or wait, 1 when one failed."""
    stages = status.status(_noted(directory))
    typer.echo(stage_status.as_json(stages) if as_json else stage_status.as_table(stages))
    raise typer.Exit(stage_status.exit_code(stages))


@app.command("logs")
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


@app.command()
def cancel(
    directory: StudyDirectory,
    stage: Annotated[str | None, typer.Argument(help="a stage, with all that need it; default: everything")] = None,
) -> None:
    """Stop what runs on the cluster, after it saved, and what waits."""
    stopped = control.cancel(_noted(directory), stage)
    typer.echo(f"cancelled: {', '.join(stopped)}" if stopped else "nothing was running or waiting")


@app.command()
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


@app.command()
def doctor(
    recipe: Annotated[str | None, typer.Argument(help="a phase of mid-training or of RL: will it run here?")] = None,
    overrides: Overrides = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="processes; default: one per GPU, or one")] = None,
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
        planned = preflight.of_recipe(
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
        healthy = _say_checks(preflight.examine(planned), as_json)
    elif recipe is not None and isinstance(kind, ReinforcementLearning):
        healthy = _doctor_rl(recipe, overrides or [], model, prompts, eval_set or [], out or Path(), probe)
    else:
        healthy = _doctor_here(recipe, overrides or [], ranks)
    if not healthy:
        raise typer.Exit(1)


def _say_checks(checks: Sequence[checklist.Check], as_json: bool) -> bool:
    typer.echo(json.dumps(checklist.as_data(checks), indent=2) if as_json else checklist.table(checks))
    return checklist.passes(checks)


def _doctor_rl(
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
    health.require(verbs.RL_MODULES[spec.engine])
    job = verbs.rl_job(spec, model=model, prompts=prompts, eval_sets=eval_sets)
    return health.preflight(job, out, prompts=probe)


def _doctor_here(recipe: str | None, overrides: list[str], ranks: int | None) -> bool:
    text, healthy = health.examine(Path.cwd())
    typer.echo(text)
    if recipe is None:
        return healthy
    text, fits = health.examine_recipe(verbs.recipe(recipe, MidTraining, overrides), Path.cwd(), ranks=ranks)
    typer.echo(text)
    return healthy and fits


def _run_one(job: Job, on: str, nodes: int | None, dry: bool, force: bool) -> None:
    _run([job], on, nodes, hold=job.logs, out=job.out, dry=dry, force=force)


def _run(jobs: list[Job], on: str, nodes: int | None, *, hold: Path, out: Path, dry: bool, force: bool) -> None:
    """Run jobs here or hand them to a cluster, or print what would run. Nobody else may hold the directory `hold` meanwhile."""
    where = place.find(on, directory=Path.cwd())
    if where is not None:
        verbs.require_no_force(force, out)
        cluster.run(jobs, where, nodes, hold, _typed(), dry)
        return
    verbs.require_one_node(nodes)
    if dry:
        typer.echo(jobs_as_text(jobs))
        return
    with local.exclusive(hold, output=out):
        local.run(jobs, force=force)


def _noted(directory: Path) -> Path:
    """Where a submission was noted down: in a study's directory, or beside that of a single stage, which holds results alone."""
    beside = logs_beside(directory)
    return beside if ledger.exists(beside) else directory


def _typed() -> str:
    return shlex.join(["megatron-octo", *sys.argv[1:]])


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
