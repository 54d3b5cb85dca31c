"""A curation as a graph of jobs: each step a stage of its own, below the directory of the run.

[web ->] documents -> annotations -> classifier -> relevant -> signatures -> duplicates -> unique -> [refined ->] corpus
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from megatron_octo.curation.config import Curation, InParts, Publication
from megatron_octo.errors import ConfigError
from megatron_octo.evaluation import sources
from megatron_octo.evaluation.config import Source
from megatron_octo.launch.jobs import Job, stage

StepT = TypeVar("StepT", bound=InParts)
#: What all steps have from the first.
CUT = ("parts", "executor", "workers", "tasks")


def jobs(curation: Curation, out: Path) -> list[Job]:
    """Every step, in an order that respects what needs what."""
    # Absolute: a stage that names its inputs another way is another one.
    return list(_jobs(curation, out.absolute()))


def here(curation: Curation) -> Curation:
    """The curation as this machine runs it: no array shares a step."""
    return dataclasses.replace(curation, reading=dataclasses.replace(curation.reading, tasks=1, task=0))


def with_benchmarks(curation: Curation, directory: Path) -> Curation:
    """The curation with its benchmarks' questions from files of a directory. Raises `CorpusError` that names those missing."""
    names = [source.name for source in curation.unique.benchmarks]
    if not names:
        raise ConfigError(f"--data {directory} would have no effect: this recipe looks for no benchmarks of its own")
    found = dataclasses.replace(curation.unique, benchmarks=tuple(sources.local(names, directory.absolute())))
    return dataclasses.replace(curation, unique=found)


def _jobs(curation: Curation, out: Path) -> Iterator[Job]:
    reading = curation.reading
    if curation.web is not None:
        yield stage(out, "web", "curation.tiny_web.pages_run", curation.web)
        reading = dataclasses.replace(reading, inputs=(out / "web" / "raw",))
    yield _step(out, "documents", "raw.reading_run", reading, *(["web"] if curation.web else []))
    annotation = dataclasses.replace(curation.annotation, documents=out / "documents")
    yield _step(out, "annotations", "scoring.annotating_run", annotation, "documents")
    classifier = dataclasses.replace(curation.classifier, annotations=out / "annotations")
    yield _step(out, "classifier", "scoring.classifier_run", classifier, "annotations")
    relevance = _cut(reading, curation.relevance, documents=out / "documents", classifier=out / "classifier")
    yield _step(out, "relevant", "scoring.relevance_run", relevance, "documents", "classifier")
    signatures = _cut(reading, curation.signatures, documents=out / "relevant")
    yield _step(out, "signatures", "copies.signatures_run", signatures, "relevant")
    duplicates = dataclasses.replace(curation.duplicates, signatures=out / "signatures", workers=reading.workers)
    yield _step(out, "duplicates", "copies.duplicates_run", duplicates, "signatures")
    unique = _cut(reading, curation.unique, documents=out / "relevant", duplicates=out / "duplicates")
    if curation.web is not None:
        unique = dataclasses.replace(
            unique, benchmarks=(Source(name="planted", file=out / "web" / "questions.jsonl"), *unique.benchmarks)
        )
    yield _step(out, "unique", "copies.unique_run", unique, "relevant", "duplicates")
    last = "unique"
    if curation.refinement is not None:
        refinement = _cut(reading, curation.refinement, documents=out / "unique")
        last = "refined"
        yield _step(out, last, "refinement.refining_run", refinement, "unique")
    yield _corpus(curation, reading, out, last)


def _corpus(curation: Curation, reading: InParts, out: Path, last: str) -> Job:
    names = ["documents", "annotations", "classifier", "relevant", "signatures", "duplicates", "unique"]
    names += [last] if last not in names else []
    publication: Publication = _cut(
        reading, curation.publication, documents=out / last, steps=tuple(out / name for name in names)
    )
    return _step(out, "corpus", "data_sets.publishing_run", publication, *names)


def _step(out: Path, name: str, module: str, config: object, *needs: str) -> Job:
    return stage(out, name, f"curation.{module}", config, needs=tuple(needs))


def _cut(first: InParts, step: StepT, **paths: Path | Sequence[Path]) -> StepT:
    """A step over as many parts as the first, by as many workers. Raises `ConfigError` where it asks for something else."""
    changes: dict[str, Any] = {name: getattr(first, name) for name in CUT}
    for name, value in changes.items():
        asked = getattr(step, name)
        if asked not in (value, getattr(InParts, name)):
            raise ConfigError(
                f"{type(step).__name__} has {name}={asked}; all steps are cut as the first: give reading.{name}={asked}"
            )
    return dataclasses.replace(step, **changes | paths)
