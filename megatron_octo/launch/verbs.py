"""The command line's verbs as jobs: a recipe or a config, this machine's files, one stage directory.

Everything that can be known to be wrong is refused here, before a process starts.
"""

import contextlib
import dataclasses
import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from megatron_octo import artifacts, config, recipes
from megatron_octo.conversion.config import Conversion
from megatron_octo.curation.config import Curation, Importing, InParts, TinyWorld
from megatron_octo.errors import ArtifactError, ConfigError, CorpusError, nearest
from megatron_octo.evaluation.config import Evaluation, Export, Overlap
from megatron_octo.launch import conversion_source
from megatron_octo.launch.jobs import Job, logs_beside
from megatron_octo.launch.plan import planning
from megatron_octo.plotting.config import PublishedCurves, Report
from megatron_octo.recipes.study import ModelStudy, Study, UserCorpus, WorldStudy
from megatron_octo.rl.config import Engine, ReinforcementLearning, RLJob
from megatron_octo.tokenization import sources
from megatron_octo.tokenization.config import SHUFFLE_SEED, Tokenization
from megatron_octo.training.config import MidTraining, RunOptions, TrainingJob
from megatron_octo.training.precision import Precision

RecipeT = TypeVar("RecipeT")
StepT = TypeVar("StepT", bound=InParts)


def recipe(name: str, kind: type[RecipeT], overrides: Sequence[str]) -> RecipeT:
    """A recipe of a given kind with `path=value` overrides applied. Raises `ConfigError`."""
    found = recipes.load(name)
    if not isinstance(found, kind):
        raise ConfigError(f"recipe '{name}' is a {type(found).__name__}, this verb takes a {kind.__name__}")
    return config.override(found, overrides)


def study_recipe(name: str, overrides: Sequence[str]) -> Study:
    """`tiny` is short for `tiny.study`."""
    return recipe(name if "." in name or ":" in name else f"{name}.study", Study, overrides)


def study_or_curation(name: str, overrides: Sequence[str]) -> Study | Curation:
    """What has several stages; `tiny` is short for `tiny.study`. Raises `ConfigError` for other recipes."""
    is_curation = ("." in name or ":" in name) and isinstance(recipes.load(name), Curation)
    return recipe(name, Curation, overrides) if is_curation else study_recipe(name, overrides)


def adapt_study(study: Study, *, seeds: int | None, files: tuple[Path, ...], text_field: str) -> Study:
    """The study with the command line's `--seeds` and `--corpus`."""
    if text_field != "text" and not files:
        raise ConfigError(f"--text-field {text_field} names a field of --corpus, which is missing")
    if files:
        if not isinstance(study, WorldStudy):
            raise ConfigError(
                f"--corpus takes the place of a generated corpus; {study.name} reads your own: corpora=DIR"
            )
        files = tuple(sources.resolve(files))
        study = dataclasses.replace(study, user_corpus=UserCorpus(corpus="web", files=files, text_field=text_field))
    return study if seeds is None else dataclasses.replace(study, seeds=seeds)


def study_here(study: Study) -> Study:
    """The study as this machine runs it: one process makes all of a corpus."""
    return dataclasses.replace(study, tokenize_tasks=1) if isinstance(study, ModelStudy) else study


def require_study_disk(study: Study, jobs: Sequence[Job], directory: Path) -> None:
    needs = study.needs_bytes if isinstance(study, WorldStudy) else planning.needed_bytes(jobs)
    artifacts.require_disk(directory, needs)


def curate(recipe: TinyWorld | Importing, out: Path) -> Job:
    """A curation of one step."""
    module = "data_sets.importing_run" if isinstance(recipe, Importing) else "run"
    sources.require_outside(recipe.inputs if isinstance(recipe, Importing) else (), out)
    return _job("curate", f"megatron_octo.curation.{module}", recipe, out)


def curation_recipe(
    name: str, overrides: Sequence[str], *, inputs: tuple[Path, ...], workers: int | None
) -> Curation | Importing | TinyWorld:
    """The recipe with the command line's `--input` and `--workers`; `tiny` is short for `tiny.curation`."""
    found = recipes.load(name if "." in name or ":" in name else f"{name}.curation")
    if not isinstance(found, (Curation, Importing, TinyWorld)):
        raise ConfigError(
            f"recipe '{name}' is a {type(found).__name__}; this verb takes a Curation, Importing or TinyWorld"
        )
    found = config.override(_with_inputs(found, inputs), overrides)
    if isinstance(found, Curation):
        return dataclasses.replace(found, reading=_with_workers(found.reading, workers))
    return _with_workers(found, workers) if isinstance(found, Importing) else found


def _with_workers(step: StepT, workers: int | None) -> StepT:
    return step if workers is None else dataclasses.replace(step, workers=workers)


def _with_inputs(recipe: RecipeT, inputs: tuple[Path, ...]) -> RecipeT:
    """A curation of the user's files. Raises `ConfigError` for one that has no inputs."""
    if not inputs:
        return recipe
    if isinstance(recipe, Importing):
        return dataclasses.replace(recipe, inputs=inputs)
    if isinstance(recipe, Curation):
        return dataclasses.replace(recipe, web=None, reading=dataclasses.replace(recipe.reading, inputs=inputs))
    raise ConfigError(f"--input is for recipes that read files, a {type(recipe).__name__} is generated")


def tokenization(
    name: str,
    overrides: Sequence[str],
    *,
    inputs: tuple[Path, ...],
    tokenizer: Path | None,
    shuffle: bool | None,
    **others: Any,
) -> Tokenization:
    """A recipe with the command line's options on top, or, under a plain name, the options alone; None leaves as is."""
    given = {key: value for key, value in others.items() if value is not None}
    given |= {"inputs": inputs} if inputs else {}
    given |= {"tokenizer": tokenizer} if tokenizer is not None else {}
    if "." in name or ":" in name:
        start = recipe(name, Tokenization, ())
    elif inputs and tokenizer is not None:
        start = Tokenization(corpus=name, inputs=inputs, tokenizer=tokenizer)
    else:
        lacking = "--input" if not inputs else "--tokenizer"
        raise ConfigError(
            f"{lacking} is missing for the corpus '{name}'; only recipes know their own (megatron-octo list)"
        )
    if shuffle is not None:
        given["shuffle_seed"] = (
            (SHUFFLE_SEED if start.shuffle_seed is None else start.shuffle_seed) if shuffle else None
        )
    return config.override(dataclasses.replace(start, **given), overrides)


def tokenize(settings: Tokenization, out: Path) -> Job:
    sources.require_apart(sources.resolve(settings.inputs), out)
    sources.require_outside(settings.inputs, out)
    if not settings.tokenizer.exists():
        raise ConfigError(f"there is no tokenizer {settings.tokenizer}; name one with --tokenizer")
    place = f"{out.name}.logs" if settings.tasks == 1 else f"{out.name}.logs/task{settings.task:05d}"
    return Job(
        name="tokenize",
        module="megatron_octo.tokenization.run",
        config=settings,
        out=out,
        logs=out.parent / place,
        always_starts=True,  # it compares itself with an earlier run: directories and globs may have got new files
    )


def require_runs_here(phase: MidTraining, ranks: int) -> None:
    """Raises `ConfigError` when the layout, the batch or the precision do not fit this machine."""
    phase.num_microbatches(ranks)
    if phase.precision is Precision.FP8 and importlib.util.find_spec("transformer_engine") is None:
        raise ConfigError(
            f"{phase.name} trains in fp8, which runs through Transformer Engine, and this machine has none; set precision=bf16, "
            "or run in the GPU image"
        )


def train(
    phase: MidTraining,
    *,
    shards: Path,
    init_checkpoint: Path | None,
    ranks: int,
    out: Path,
    options: RunOptions | None = None,
) -> Job:
    """Raises `ConfigError` when the starting point is missing, `CorpusError` when a corpus is."""
    _check_start(phase, init_checkpoint)
    for corpus in phase.corpora:
        if not (shards / corpus / artifacts.MARK).exists():
            there = sorted(path.parent.name for path in shards.glob(f"*/{artifacts.MARK}"))
            raise CorpusError(
                f"{phase.name} reads the corpus '{corpus}', but {shards / corpus} is no tokenised corpus"
                f"{nearest(corpus, there) if there else ''}; make it with 'megatron-octo tokenize'"
            )
    job = TrainingJob(recipe=phase, shards=shards, init_checkpoint=init_checkpoint, options=options or RunOptions())
    return _job(phase.name, "megatron_octo.training.run", job, out, ranks=ranks)


def convert(settings: Conversion, out: Path) -> Job:
    sources, made_from = _sources(config.to_dict(settings)), _made_from(out)
    if sources != made_from:  # else it is answered by what it made: its sources may be gone
        conversion_source.require(settings)
    if out.resolve().is_relative_to(settings.source.resolve()):
        raise ConfigError(f"the output {out} lies in the source {settings.source}; name an output elsewhere")
    task = Path() if settings.tasks == 1 else Path(f"task{settings.task:05d}")
    return Job(
        name="convert",
        module="megatron_octo.conversion.run",
        config=settings,
        out=out,
        logs=logs_beside(out) / task,
        # Other tasks make the rest; proof may be wanted of what is made; only the process can tell whether other directories
        # hold the same.
        always_starts=settings.tasks > 1 or settings.check or settings.check_logits or made_from not in (None, sources),
    )


def _sources(conversion: Mapping[str, Any]) -> list[str | None]:
    return [conversion.get(name) for name in ("source", "reference", "tokenizer")]


def _made_from(out: Path) -> list[str | None] | None:
    """The directories that a finished conversion was made from."""
    with contextlib.suppress(ArtifactError):  # an unreadable mark: the launcher says so, or `--force` forgets it
        mark = artifacts.read_mark(out)
        return _sources(mark["config"]) if mark is not None and mark["done"] else None
    return None


#: The process of each engine. They live in environments of their own: OpenRLHF pins torch and transformers.
RL_MODULES = {Engine.TRL: "megatron_octo.rl.run", Engine.OPENRLHF: "megatron_octo.rl.openrlhf_run"}


def rl(
    spec: ReinforcementLearning,
    *,
    model: Path,
    prompts: Path,
    eval_sets: Sequence[str],
    out: Path,
    restart_from: int | None = None,
) -> Job:
    return _job(
        spec.name,
        RL_MODULES[spec.engine],
        rl_job(spec, model=model, prompts=prompts, eval_sets=eval_sets, restart_from=restart_from),
        out,
    )


def rl_job(
    spec: ReinforcementLearning,
    *,
    model: Path,
    prompts: Path,
    eval_sets: Sequence[str],
    restart_from: int | None = None,
) -> RLJob:
    """`eval_sets` are NAME=FILE words; every set of the recipe must be named."""
    sets = {name: Path(file) for name, _, file in (word.partition("=") for word in eval_sets)}
    missing = [name for name in spec.eval_sets if not sets.get(name)]
    if missing:
        raise ConfigError(
            f"{spec.name} evaluates on {', '.join(missing)}; name the files: --eval-set {missing[0]}=FILE.jsonl"
        )
    _require_files((prompts, *sets.values()))
    return RLJob(recipe=spec, model=model, prompts=prompts, eval_sets=sets, restart_from=restart_from)


def evaluate(settings: Evaluation, out: Path, *, export: Export | None = None) -> Job:
    """Answer and score; with `export`, write the prompts as tasks for another harness instead."""
    files = (file for source in settings.benchmarks for file in (source.file, source.shots_file))
    _require_files([file for file in files if file is not None])
    module = "megatron_octo.evaluation.run" if export is None else "megatron_octo.evaluation.export"
    return _job("eval", module, settings, out)


def overlap(settings: Overlap, out: Path) -> Job:
    if not any(settings.shards.glob(f"*/{artifacts.MARK}")):
        raise CorpusError(
            f"{settings.shards} holds no tokenised corpora; name the directory that has one below it per corpus"
        )
    return _job("overlap", "megatron_octo.evaluation.overlap_run", settings, out)


def plot_published(curves: Path, out: Path) -> Job:
    """A page of curves that others logged."""
    if not curves.is_dir():
        raise ConfigError(f"{curves} is no directory; name the one with the exported curves")
    return _job("published", "megatron_octo.plotting.published_run", PublishedCurves(curves=curves), out)


def plot(study_directory: Path, out: Path) -> Job:
    """The report of a finished or half-finished study, drawn again."""
    made = study_directory / "logs" / "report" / "config.json"
    if not made.exists():
        raise ConfigError(
            f"{study_directory} holds no study that reached its report (no {made.relative_to(study_directory)})"
        )
    report = config.load(Report, made)
    if not any((stage / artifacts.MARK).exists() for stage in report.all_stages):
        raise ConfigError(
            f"the stages that {made} names ({report.all_stages[0]}, ...) are not here; paths are as the study was "
            "started: run from the directory it was started in"
        )
    return _job("report", "megatron_octo.plotting.run", report, out)


def require_one_node(nodes: int | None) -> None:
    if nodes not in (None, 1):
        raise ConfigError(
            f"the local place is one machine, not {nodes} nodes; name a cluster with --on (docs/cluster.md)"
        )


def require_no_force(force: bool, out: Path) -> None:
    """A job that is requeued would begin anew each time."""
    if force:
        raise ConfigError(
            f"--force is for this machine; remove what is to be redone below {out}, or name another --out"
        )


def _job(name: str, module: str, settings: Any, out: Path, *, ranks: int = 1) -> Job:
    return Job(name=name, module=module, config=settings, out=out, logs=logs_beside(out), ranks=ranks)


def _check_start(phase: MidTraining, init_checkpoint: Path | None) -> None:
    branch = phase.branch_point
    needed = f"the directory of {branch.parent}" if branch else phase.init_from
    if init_checkpoint is None and needed:
        hint = "" if branch else " imported with 'megatron-octo convert from-hf'"
        raise ConfigError(f"{phase.name} starts from {needed}; name it with --init-from DIR{hint}")
    if init_checkpoint is not None:
        if not needed:
            raise ConfigError(
                f"{phase.name} starts from random weights; --init-from {init_checkpoint} would be ignored, leave it out"
            )
        if branch is None or not (init_checkpoint / artifacts.MARK).exists():
            artifacts.finished(init_checkpoint)  # a branch may leave a run that is still training


def _require_files(files: Sequence[Path]) -> None:
    for file in files:
        if not file.is_file() or not os.access(file, os.R_OK):
            raise CorpusError(f"{file} is not a readable file")
