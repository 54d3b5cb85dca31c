"""Curves of reinforcement learning by step, read from exports of Weights & Biases and from our own `metrics.jsonl`.

A W&B export is a CSV of one quantity: a column `Step` and, per run, `<run> - <tag>` with its `__MIN` and `__MAX` (they differ where
W&B merged several points into one). A blank means that the run had ended, or that there was nothing to average. Steps stay as logged.
"""

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo import jsonl
from megatron_octo.errors import ArtifactError

ACCURACY = "accuracy"
#: Tokens per response, over the correct ones alone: what verl's validation of the paper logged.
LENGTH_CORRECT = "length_correct"
#: Tags of verl (the paper's fork, then current releases) and of our own metrics, by what they measure.
TAGS = (
    (ACCURACY, re.compile(r"val/test_score/(?P<benchmark>.+)")),
    (ACCURACY, re.compile(r"val-core/(?P<benchmark>.+)/acc/mean@\d+")),
    (ACCURACY, re.compile(r"eval/(?P<benchmark>.+)/accuracy")),
    (LENGTH_CORRECT, re.compile(r"val_response_length/test_length_correct/(?P<benchmark>.+)")),
    (LENGTH_CORRECT, re.compile(r"eval/(?P<benchmark>.+)/response_length_correct")),
)
#: Benchmarks as they are spelled on axes, in the paper's order.
BENCHMARKS = ("MATH500", "GSM8K", "OlympiadBench", "AMC23")
STEP_COLUMNS = ("Step", "_step", "step", "global_step", "training/global_step", "trainer/global_step")
METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One quantity of one run at the steps that have it."""

    run: str
    #: `accuracy` (a share) or `length_correct` (tokens); any other tag as it was logged.
    metric: str
    #: Empty for quantities that belong to no benchmark.
    benchmark: str
    #: Logged steps, ascending, none twice.
    steps: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def quantity(self) -> tuple[str, str]:
        return self.metric, self.benchmark

    def at(self, step: int) -> float | None:
        return dict(zip(self.steps, self.values, strict=True)).get(step)

    @property
    def last(self) -> float:
        return self.values[-1]

    @property
    def highest(self) -> tuple[float, int]:
        """The largest value and the first step that has it."""
        value = max(self.values)
        return value, self.steps[self.values.index(value)]


def read(file: Path) -> list[Curve]:
    """All curves of a W&B export (.csv) or of our own metrics (.jsonl); runs without any value are left out.

    Raises:
        ArtifactError: the file is neither.
    """
    curves = _read_metrics(file) if file.suffix == ".jsonl" else _read_export(file)
    return [curve for curve in curves if curve.steps]


def read_directory(directory: Path) -> dict[str, list[Curve]]:
    """The curves below a directory by the folder that holds them, resumed runs merged; folders in alphabetical order.

    The metrics of stages side by side (`long/metrics.jsonl`, `short/metrics.jsonl`) belong to the folder of the stages.

    Raises:
        ArtifactError: there are none, or a CSV is no export.
    """
    found: dict[str, list[Curve]] = {}
    for file in files(directory):
        folder = file.parent.parent if file.name == METRICS_FILE and file.parent != directory else file.parent
        found.setdefault(folder.relative_to(directory).as_posix(), []).extend(read(file))
    merged = {folder: merge(curves) for folder, curves in sorted(found.items()) if curves}
    if not merged:
        raise ArtifactError(
            f"{directory} holds no curves; name a directory of W&B exports (CSV) or of RL stages ({METRICS_FILE})"
        )
    return merged


def files(directory: Path) -> list[Path]:
    """What `read_directory` reads."""
    return sorted([*directory.rglob("*.csv"), *directory.rglob(METRICS_FILE)])


def merge(curves: Iterable[Curve]) -> list[Curve]:
    """One curve per run and quantity: a run that was resumed was logged in pieces. Where pieces overlap, the first counts."""
    pieces: dict[tuple[str, str, str], dict[int, float]] = {}
    for curve in curves:
        merged = pieces.setdefault((curve.run, *curve.quantity), {})
        for step, value in zip(curve.steps, curve.values, strict=True):
            merged.setdefault(step, value)
    return [_curve(run, metric, benchmark, points.items()) for (run, metric, benchmark), points in pieces.items()]


def quantity(tag: str) -> tuple[str, str]:
    """Metric and benchmark of a logged tag: `val/test_score/GSM8k -> ("accuracy", "GSM8K")`."""
    for metric, pattern in TAGS:
        if found := pattern.fullmatch(tag):
            logged = found["benchmark"]
            return metric, next((name for name in BENCHMARKS if name.casefold() == logged.casefold()), logged)
    return tag, ""


def benchmarks(curves: Iterable[Curve]) -> list[str]:
    """The benchmarks of these curves, the paper's first."""
    logged = list(dict.fromkeys(curve.benchmark for curve in curves if curve.benchmark))
    return sorted(logged, key=lambda name: BENCHMARKS.index(name) if name in BENCHMARKS else len(BENCHMARKS))


def summary(curves: Sequence[Curve], *, at: int) -> list[dict[str, Any]]:
    """One row per run: its last step; of each benchmark the accuracy in % at step 0, at step `at`, at the end and at its best, and the
    tokens per correct response at the first three. Rounded as printed; None where a run has no value.
    """
    rows = []
    for run in dict.fromkeys(curve.run for curve in curves):
        own = {curve.quantity: curve for curve in curves if curve.run == run}
        row: dict[str, Any] = {"run": run, "last_step": max(curve.steps[-1] for curve in own.values())}
        for name in benchmarks(curves):
            row |= _accuracy_cells(name, own.get((ACCURACY, name)), at)
            row |= _length_cells(name, own.get((LENGTH_CORRECT, name)), at)
        rows.append(row)
    return rows


def _accuracy_cells(name: str, curve: Curve | None, at: int) -> dict[str, float | int | None]:
    cells = dict.fromkeys([f"{name}_at_0", f"{name}_at_{at}", f"{name}_last", f"{name}_best", f"{name}_best_step"])
    if curve is None:
        return cells
    best, step = curve.highest
    shares = (curve.at(0), curve.at(at), curve.last, best)
    return dict(
        zip(cells, (*(None if share is None else round(100 * share, 1) for share in shares), step), strict=True)
    )


def _length_cells(name: str, curve: Curve | None, at: int) -> dict[str, int | None]:
    cells = (f"{name}_tokens_at_0", f"{name}_tokens_at_{at}", f"{name}_tokens_last")
    lengths = (curve.at(0), curve.at(at), curve.last) if curve else (None, None, None)
    return {cell: None if length is None else round(length) for cell, length in zip(cells, lengths, strict=True)}


def _read_export(file: Path) -> list[Curve]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        header, *rows = [row for row in csv.reader(stream) if row] or [[]]
    if not header or header[0] not in STEP_COLUMNS or not any(" - " in column for column in header[1:]):
        raise ArtifactError(
            f"{file} is no W&B export of curves: its columns are {', '.join(header[:3]) or 'none'}, not Step and `<run> - <tag>`; "
            "export the chart as CSV with Step as its x axis"
        )
    return [
        _curve(run, *quantity(tag), _column(file, rows, place))
        for place, column in enumerate(header)
        if " - " in column and not column.endswith(("__MIN", "__MAX"))
        for run, _, tag in [column.rpartition(" - ")]
    ]


def _column(file: Path, rows: Sequence[Sequence[str]], place: int) -> Iterator[tuple[int, float]]:
    """(step, value) of the rows that have a number."""
    for number, row in enumerate(rows, start=2):
        try:
            step, value = int(row[0]), float(row[place] or "nan")
        except (ValueError, IndexError) as error:
            raise ArtifactError(f"{file}:{number} is not a row of numbers ({error}); export the chart again") from error
        yield step, value


def _read_metrics(file: Path) -> list[Curve]:
    """The evaluations of an RL stage; the run is called as its directory."""
    points: dict[str, list[tuple[int, float]]] = {}
    for row in jsonl.read(file):
        if not isinstance(row, Mapping) or "step" not in row:
            raise ArtifactError(
                f"{file} has rows without a step, {json.dumps(row)[:60]}; name the metrics of an RL stage"
            )
        for tag, value in row.items():
            if tag.startswith("eval/") and value is not None:
                points.setdefault(tag, []).append((row["step"], value))
    run = file.absolute().parent.name
    return [_curve(run, *quantity(tag), of_tag) for tag, of_tag in points.items()]


def _curve(run: str, metric: str, benchmark: str, points: Iterable[tuple[int, float]]) -> Curve:
    known = sorted({step: value for step, value in points if math.isfinite(value)}.items())
    steps, values = zip(*known, strict=True) if known else ((), ())
    return Curve(run=run, metric=metric, benchmark=benchmark, steps=tuple(steps), values=tuple(values))
