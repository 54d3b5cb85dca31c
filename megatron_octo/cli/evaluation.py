"""Verbs that measure models: evaluation, comparison of two, overlap of benchmarks with training text."""

from pathlib import Path
from typing import Annotated

import typer

from megatron_octo.cli.options import DataDirectory, DryRun, Force, Nodes, On, Out
from megatron_octo.cli.running import run_one
from megatron_octo.evaluation.config import Engine, Evaluation, Export, Overlap, ShotSource
from megatron_octo.launch import evaluations, verbs
from megatron_octo.templates import Template


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
    run_one(verbs.evaluate(settings, out, export=export), on, nodes, dry_run, force)


def compare(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="an evaluation's directory")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="another's, on the same questions")],
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Difference of two models on the same questions, with interval and paired test."""
    raise typer.Exit(evaluations.compare(before, after, as_json=as_json))


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
    run_one(verbs.overlap(settings, out), on, nodes, dry_run, force)
