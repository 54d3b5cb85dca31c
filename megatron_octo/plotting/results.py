"""What a report shows, read from finished stage directories into plain values.

Rooms meet through files: training and RL write `metrics.jsonl`, an evaluation writes `scores.json` and for each benchmark
`samples/NAME.jsonl`, the search for benchmarks in the corpora `overlap.json`, every stage its `stage.json`. A stage that is not
there, or not finished, reads as None or as empty.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_octo import artifacts
from megatron_octo.errors import ArtifactError
from megatron_octo.plotting.config import Report, ReportedModel

Row = Mapping[str, Any]
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """A phase of mid-training: one row per optimizer step, and the recipe it followed."""

    name: str
    rows: tuple[Row, ...]
    recipe: Mapping[str, Any]

    @property
    def branch_tokens(self) -> int | None:
        """Tokens of the parent at the branch point; None for a run that branches from nothing."""
        point = self.recipe.get("branch_point")
        return point["at_tokens"] if point else None

    @property
    def corpora(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(key.removeprefix("loss/") for row in self.rows for key in row if key[:5] == "loss/"))


@dataclass(frozen=True, kw_only=True)
class RLRun:
    """One seed of reinforcement learning: training rows and evaluation rows, the recipe it followed and its alarms."""

    rows: tuple[Row, ...]
    recipe: Mapping[str, Any]
    alarms: tuple[Row, ...] = ()

    @property
    def seed(self) -> int:
        return int(self.recipe["seed"])


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One model on one benchmark."""

    scores: Mapping[str, Any]
    samples: tuple[Row, ...]

    def correct_by_question(self) -> dict[tuple[int, str], float]:
        """Share of correct samples of each question (place and text; some benchmarks ask a question twice)."""
        verdicts: dict[tuple[int, str], list[float]] = {}
        for sample in self.samples:
            verdicts.setdefault((sample["index"], sample["question"]), []).append(float(sample["correct"]))
        return {question: sum(values) / len(values) for question, values in sorted(verdicts.items())}


@dataclass(frozen=True, kw_only=True)
class ModelResults:
    """Everything known about one model of the study. Evaluations are by benchmark; `after` has one of them per RL seed."""

    name: str
    training: TrainingRun | None
    base: Mapping[str, Evaluated]
    rl: tuple[RLRun, ...]
    after: tuple[Mapping[str, Evaluated], ...]

    def after_on(self, benchmark: str) -> tuple[Evaluated, ...]:
        """One per RL seed that was evaluated on the benchmark."""
        return tuple(each[benchmark] for each in self.after if benchmark in each)


@dataclass(frozen=True, kw_only=True)
class FoundQuestions:
    """How many questions of one benchmark stand in one corpus."""

    corpus: str
    benchmark: str
    questions: int
    found: int
    #: Questions of too few words to be looked for: nothing can be said about them.
    too_short: int
    #: Some of those found: `question` and the `text` of the corpus.
    examples: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class OverlapResults:
    """Benchmark questions in the training corpora. `documents` is (looked at, all) by corpus."""

    ngram: int
    documents: Mapping[str, tuple[int, int]]
    found: tuple[FoundQuestions, ...]

    @property
    def benchmarks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each.benchmark for each in self.found))


def read(report: Report) -> tuple[ModelResults, ...]:
    """Read all models of a report. Raises `ArtifactError` on files that are not what they should be."""
    return tuple(_read_model(model) for model in report.models)


def read_overlap(report: Report) -> OverlapResults | None:
    """None where nobody searched, or the search did not finish. Raises `ArtifactError` on a file that is not what it should be."""
    if report.overlap is None or not is_finished(report.overlap):
        return None
    written = _json(report.overlap / "overlap.json")
    return OverlapResults(
        ngram=written["ngram"],
        documents={name: (corpus["documents"], corpus["of"]) for name, corpus in written["corpora"].items()},
        found=tuple(
            _found_questions(corpus, benchmark, found)
            for corpus, looked in written["corpora"].items()
            for benchmark, found in looked["benchmarks"].items()
        ),
    )


def benchmarks(models: Sequence[ModelResults]) -> tuple[str, ...]:
    """All benchmarks of the study; the first is the first of the base evaluations."""
    bases = (name for model in models for name in model.base)
    after = (name for model in models for each in model.after for name in each)
    return tuple(dict.fromkeys((*bases, *after)))


def missing(report: Report, models: Sequence[ModelResults]) -> tuple[str, ...]:
    """What a full report would show and this one cannot, one sentence each."""
    absent = [report.stage_name(path) for path in report.all_stages if not is_finished(path)]
    lines = [f"{name}: the stage is not there or did not finish." for name in absent]
    for model in report.models:
        if not model.rl:
            lines.append(f"{model.name}: no reinforcement learning was run.")
        elif not model.rl_evaluations:
            lines.append(f"{model.name}: the models after reinforcement learning were not evaluated.")
    asked = benchmarks(models)
    for results in models:
        not_asked = [name for name in asked if results.base and name not in results.base]
        if not_asked:
            lines.append(f"{results.name}: the base model was not evaluated on {', '.join(not_asked)}.")
    return tuple(lines)


def is_finished(directory: Path) -> bool:
    mark = artifacts.read_mark(directory)
    return mark is not None and bool(mark["done"])


def series(rows: tuple[Row, ...], x: str, y: str) -> tuple[Array, Array]:
    """Two columns of the rows that have a finite number in both."""
    pairs = [(row[x], row[y]) for row in rows if row.get(x) is not None and row.get(y) is not None]
    values = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    values = values[np.isfinite(values).all(axis=1)]
    return values[:, 0], values[:, 1]


def read_jsonl(file: Path) -> tuple[Row, ...]:
    """Raises `ArtifactError` naming file and line when a line is not a JSON object."""
    rows = []
    # Not `splitlines`: it also splits at U+2028 and its like, which responses may hold.
    lines = _text(file).split("\n")
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ArtifactError(f"{file}:{number} is not JSON ({error}); redo the stage that wrote it") from error
        if not isinstance(row, dict):
            raise ArtifactError(f"{file}:{number} is not a JSON object; redo the stage that wrote it")
        rows.append(row)
    return tuple(rows)


def _read_model(model: ReportedModel) -> ModelResults:
    return ModelResults(
        name=model.name,
        training=_read_training(model.name, model.training) if model.training and is_finished(model.training) else None,
        base=_read_evaluation(model.base_evaluation) if is_finished(model.base_evaluation) else {},
        rl=tuple(_read_rl(path) for path in model.rl if is_finished(path)),
        after=tuple(_read_evaluation(path) for path in model.rl_evaluations if is_finished(path)),
    )


def _read_training(name: str, stage: Path) -> TrainingRun:
    recipe = artifacts.finished(stage)["config"]["recipe"]
    return TrainingRun(name=name, rows=read_jsonl(stage / "metrics.jsonl"), recipe=recipe)


def _read_rl(directory: Path) -> RLRun:
    recipe = artifacts.finished(directory)["config"]["recipe"]
    alarms = directory / "alarms.jsonl"  # made by the first alarm
    return RLRun(
        rows=read_jsonl(directory / "metrics.jsonl"),
        recipe=recipe,
        alarms=read_jsonl(alarms) if alarms.exists() else (),
    )


def _read_evaluation(directory: Path) -> dict[str, Evaluated]:
    return {
        name: Evaluated(scores=scores, samples=read_jsonl(directory / "samples" / f"{name}.jsonl"))
        for name, scores in _json(directory / "scores.json").items()
    }


def _found_questions(corpus: str, benchmark: str, found: Mapping[str, Any]) -> FoundQuestions:
    return FoundQuestions(
        corpus=corpus,
        benchmark=benchmark,
        questions=found["questions"],
        found=found["found"],
        too_short=found["too_short"],
        examples=tuple(found["examples"]),
    )


def _json(file: Path) -> Any:
    try:
        return json.loads(_text(file))
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{file} is not JSON ({error}); redo the stage that wrote it") from error


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ArtifactError(f"cannot read {file}: {error.strerror}; redo the stage that writes it") from error
