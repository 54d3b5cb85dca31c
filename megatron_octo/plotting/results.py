"""What a report shows, read from finished stage directories into plain values.

Rooms meet through files: training and RL write `metrics.jsonl`, an evaluation writes `scores.json` and `samples.jsonl`, every
stage its `stage.json`. A stage that is not there, or not finished, reads as None.
"""

import json
from collections.abc import Mapping
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
    """One seed of reinforcement learning: training rows and evaluation rows, and the recipe it followed."""

    rows: tuple[Row, ...]
    recipe: Mapping[str, Any]

    @property
    def seed(self) -> int:
        return int(self.recipe["seed"])


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One model on the held-out questions."""

    scores: Mapping[str, Any]
    samples: tuple[Row, ...]

    def correct_by_question(self) -> dict[str, float]:
        """Share of correct samples of each question, in the order of the file."""
        verdicts: dict[str, list[float]] = {}
        for sample in self.samples:
            verdicts.setdefault(sample["question"], []).append(float(sample["correct"]))
        return {question: sum(values) / len(values) for question, values in verdicts.items()}


@dataclass(frozen=True, kw_only=True)
class ModelResults:
    """Everything known about one model of the study; `after` has one evaluation per RL seed."""

    name: str
    training: TrainingRun | None
    base: Evaluated | None
    rl: tuple[RLRun, ...]
    after: tuple[Evaluated, ...]


def read(report: Report) -> tuple[ModelResults, ...]:
    """Read all models of a report. Raises `ArtifactError` on files that are not what they should be."""
    return tuple(_read_model(model) for model in report.models)


def missing(report: Report) -> tuple[str, ...]:
    """What a full report would show and this one cannot, one sentence each."""
    absent = [report.stage_name(path) for path in report.all_stages if not is_finished(path)]
    lines = [f"{name}: the stage is not there or did not finish." for name in absent]
    for model in report.models:
        if not model.rl:
            lines.append(f"{model.name}: no reinforcement learning was run.")
        elif not model.rl_evaluations:
            lines.append(f"{model.name}: the models after reinforcement learning were not evaluated.")
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
        training=_read_training(model) if is_finished(model.training) else None,
        base=_read_evaluation(model.base_evaluation) if is_finished(model.base_evaluation) else None,
        rl=tuple(_read_rl(path) for path in model.rl if is_finished(path)),
        after=tuple(_read_evaluation(path) for path in model.rl_evaluations if is_finished(path)),
    )


def _read_training(model: ReportedModel) -> TrainingRun:
    recipe = artifacts.finished(model.training)["config"]["recipe"]
    return TrainingRun(name=model.name, rows=read_jsonl(model.training / "metrics.jsonl"), recipe=recipe)


def _read_rl(directory: Path) -> RLRun:
    recipe = artifacts.finished(directory)["config"]["recipe"]
    return RLRun(rows=read_jsonl(directory / "metrics.jsonl"), recipe=recipe)


def _read_evaluation(directory: Path) -> Evaluated:
    try:
        scores = json.loads(_text(directory / "scores.json"))
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{directory / 'scores.json'} is not JSON ({error}); redo the evaluation") from error
    return Evaluated(scores=scores, samples=read_jsonl(directory / "samples.jsonl"))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ArtifactError(f"cannot read {file}: {error.strerror}; redo the stage that writes it") from error
