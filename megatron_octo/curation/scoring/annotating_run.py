"""Score a sample of documents with a language model.

`OUT/annotations.jsonl` has `{"id", "year", "score", "text", "answer"}` for each, in the order of the documents, and `OUT/failed.jsonl`
those without a score, with the reason. Answers are kept in OUT/logs/answers: a killed stage, run again, asks none of them again.
"""

import contextlib
import functools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

from datatrove.data import Document

from megatron_octo import artifacts, process, progress
from megatron_octo.curation import documents, parts
from megatron_octo.curation.config import Annotation
from megatron_octo.curation.language_model import asking, costs, model_server, prompts
from megatron_octo.curation.language_model.budget import BudgetSpent
from megatron_octo.curation.scoring import annotating
from megatron_octo.curation.scoring.annotating import Annotated, Place, Shown
from megatron_octo.errors import ConfigError

SCORED, FAILED = "annotations.jsonl", "failed.jsonl"
#: `kept_year_2019` among the counts of the stage that wrote the documents.
_YEAR = "kept_year_"


def run(config: Annotation, out: Path, force: bool) -> None:
    template = prompts.load(config.prompt_file, prompts.ANNOTATE)
    inputs = {"documents": config.documents} | ({"prompt": config.prompt_file} if config.prompt_file else {})
    with artifacts.stage(
        out, kind="annotate", config=config, inputs=inputs, resumable=True, force=force, keep=Path("logs", "answers")
    ) as stage:
        if stage.done:
            return
        mark = artifacts.finished(config.documents)
        places = _sample(config, mark)
        _say_costs(config, mark["counts"])
        results = _results(config, template, places, stage.logs / "answers" / SCORED)
        stage.counts |= _write(out, results, len(places))
        _require_some(stage.counts, out)


def _sample(config: Annotation, mark: dict[str, Any]) -> list[Place]:
    counts = mark["counts"]
    sizes = {name.removeprefix(_YEAR): number for name, number in counts.items() if name.startswith(_YEAR)}
    if not sizes:
        raise ConfigError(f"{config.documents} has no documents to take a sample of; look at its rejects")
    with progress.bar("sample", total=counts["kept_documents"], unit="documents") as advance:
        everything = _counted(_all(config.documents, mark["config"]["parts"]), advance)
        return annotating.sampled(everything, annotating.quotas(sizes, config.sample), config.seed)


def _all(stage: Path, parts: int) -> Iterator[tuple[Place, Document]]:
    for part in range(parts):
        for index, document in enumerate(documents.read(stage, part)):
            yield Place(part=part, index=index), document


def _counted(
    everything: Iterable[tuple[Place, Document]], advance: progress.Advance
) -> Iterator[tuple[Place, Document]]:
    for each in everything:
        advance(1)
        yield each


def _say_costs(config: Annotation, counts: dict[str, int]) -> None:
    estimate = costs.annotation(config, documents=counts["kept_documents"], characters=counts["kept_characters"])
    parts.say(f"annotate: {costs.spell(estimate, config.model)}")


def _pages(config: Annotation, places: Sequence[Place]) -> Iterator[Shown]:
    """The sample, read again: its texts together may be more than the memory holds."""
    for part, of_part in groupby(places, key=lambda place: place.part):
        wanted = {place.index for place in of_part}
        for index, document in enumerate(documents.read(config.documents, part)):
            if index in wanted:
                yield annotating.shown(document, config.max_characters)


def _results(config: Annotation, template: str, places: Sequence[Place], cache: Path) -> Iterator[Annotated]:
    """Of all pages, in their order. Raises what `asking.each` raises."""
    work = functools.partial(
        annotating.annotate,
        template=template,
        max_new_tokens=config.max_new_tokens,
        attempts=config.model.attempts,
    )
    done = 0
    try:
        with (
            model_server.running(config.model) as server,
            contextlib.closing(
                asking.each(_pages(config, places), work, model=config.model, server=server, cache=cache)
            ) as results,
            progress.bar("annotate", total=len(places), unit="documents") as advance,
        ):
            for result in results:
                done += 1
                advance(1)
                yield result
    except BudgetSpent as error:
        raise BudgetSpent(f"{error}; {done:,} of {len(places):,} documents are scored") from error


def _write(out: Path, results: Iterable[Annotated], total: int) -> dict[str, int]:
    """Both files appear when they are complete; returns what was counted."""
    counts: Counter[str] = Counter({"sampled": total})
    with _appearing(out / SCORED) as scored, _appearing(out / FAILED) as failed:
        for result in results:
            row = {"id": result.shown.id, "year": result.shown.year}
            rest = {"text": result.shown.text, "answer": result.answer}
            if result.score is None:
                _line(failed, row | {"reason": result.reason} | rest)
            else:
                _line(scored, row | {"score": result.score} | rest)
            counts.update(_counts(result))
    return dict(sorted(counts.items()))


def _counts(result: Annotated) -> dict[str, int]:
    tokens = {"prompt_tokens": result.prompt_tokens, "answer_tokens": result.answer_tokens}
    if result.score is None:
        return tokens | {"failed": 1, f"failed_{result.reason}": 1}
    year = f"year_{result.shown.year}"
    return tokens | {"annotated": 1, f"score_{result.score}": 1, year: 1, f"{year}_score_{result.score}": 1}


@contextlib.contextmanager
def _appearing(file: Path) -> Iterator[TextIO]:
    with artifacts.appearing(file) as temporary, temporary.open("w", encoding="utf-8") as stream:
        yield stream


def _line(stream: TextIO, row: dict[str, Any]) -> None:
    stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _require_some(counts: dict[str, int], out: Path) -> None:
    if not counts.get("annotated"):
        raise ConfigError(
            f"not one of {counts['sampled']:,} documents got a score; {out / FAILED} has the answers: mend the prompt, or give "
            "the model more max_new_tokens"
        )


if __name__ == "__main__":
    raise SystemExit(process.main(run, Annotation))
