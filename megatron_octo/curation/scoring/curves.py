"""Precision and recall of the classifier on held-out documents: the table to choose the threshold from, and its picture.

Shares are those of the held-out documents. They are as many of each year as the annotated sample has, so over all years the precision
is that of the sample; a corpus with more documents of one year takes that year's lines.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

#: Of the table.
THRESHOLDS = tuple(round(step / 100, 2) for step in range(1, 100))
#: The line over all years.
ALL = "all"
#: Held-out documents of each class that a year needs for a curve (guess: with fewer its precision is off by 0.2 and more).
FEWEST_DRAWN = 10
#: Marked on the curve of all years.
MARKED = (0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
#: Between numbers there.
CLOSE = 0.05
WIDTH_INCHES, HEIGHT_INCHES = 9.0, 4.4
INK, CHOSEN = "#1f2328", "#d55e00"

Scores = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Point:
    """What a threshold does to one year's documents, or to all. None is a share of nothing."""

    year: str
    threshold: float
    documents: int
    positives: int
    kept_share: float
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Scores and labels of the held-out documents, and the places of each year's."""

    scores: Scores
    labels: Labels
    years: Mapping[str, Sequence[int]]

    def of(self, year: str) -> tuple[Scores, Labels]:
        places = list(self.years[year])
        return self.scores[places], self.labels[places]


def table(held_out: HeldOut) -> list[Point]:
    """All years, then each, at every threshold."""
    groups = {ALL: (held_out.scores, held_out.labels)} | {year: held_out.of(year) for year in held_out.years}
    return [point(year, *group, threshold) for year, group in groups.items() for threshold in THRESHOLDS]


def point(year: str, scores: Scores, labels: Labels, threshold: float) -> Point:
    kept = scores >= threshold
    right = int((kept & labels).sum())
    num_kept, positives = int(kept.sum()), int(labels.sum())
    return Point(
        year=year, threshold=threshold, documents=len(scores), positives=positives, kept_share=round(num_kept / len(scores), 4),
        precision=_share(right, num_kept), recall=_share(right, positives), f1=_share(2 * right, num_kept + positives),
    )  # fmt: skip


def as_csv(points: Sequence[Point]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [field.name for field in fields(Point)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(each) for each in points)
    return stream.getvalue()


def draw(held_out: HeldOut, *, threshold: float) -> Figure:
    """Left precision over recall, of all years and of each; right what moves with the threshold."""
    with mpl.rc_context(_style()):
        figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
        left, right = figure.subplots(1, 2)
        _precision_over_recall(left, held_out, threshold)
        _over_thresholds(right, held_out, threshold)
        positives = held_out.labels.mean()
        figure.suptitle(
            f"{len(held_out.scores):,} held-out documents, {positives:.0%} of them positives", fontsize="medium"
        )
    return figure


def image(figure: Figure, kind: str) -> bytes:
    """The figure as `png` or `svg`; the same values give the same bytes."""
    stream = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "curves", "svg.fonttype": "none"}):
        figure.savefig(stream, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None)
    return stream.getvalue()


def _precision_over_recall(axes: Axes, held_out: HeldOut, threshold: float) -> None:
    drawn = [year for year in held_out.years if _is_drawn(held_out.of(year)[1])]
    colours = mpl.colormaps["viridis"](np.linspace(0.05, 0.9, len(drawn)))
    for year, colour in zip(drawn, colours, strict=True):
        curve = _curve(*held_out.of(year))
        axes.plot(*curve, color=colour, linewidth=1.0, alpha=0.9, label=year)
        if (at := _place(point(year, *held_out.of(year), threshold))) is not None:
            axes.plot(*at, "o", color=colour, markersize=4)
    axes.plot(*_curve(held_out.scores, held_out.labels), color=INK, linewidth=2.0, label="all years")
    _mark_thresholds(axes, held_out, threshold)
    axes.set_xlabel("Recall: of the positives, kept")
    axes.set_ylabel("Precision: of the kept, positives")
    axes.legend(loc="lower left", ncols=1 + len(drawn) // 7, fontsize="x-small")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    axes.set_title("Precision and recall; dots are thresholds", loc="left")


def _mark_thresholds(axes: Axes, held_out: HeldOut, threshold: float) -> None:
    """The chosen one, and of the others those whose numbers do not lie on each other."""
    taken: list[tuple[float, float]] = []
    for mark in (threshold, *MARKED):
        at = _place(point(ALL, held_out.scores, held_out.labels, mark))
        if at is None or any(abs(at[0] - x) + abs(at[1] - y) < CLOSE for x, y in taken):
            continue
        is_chosen = mark == threshold
        look: dict[str, Any] = (
            {"fontweight": "bold", "color": CHOSEN} if is_chosen else {"fontsize": "x-small", "color": INK}
        )
        axes.plot(*at, "o", color=look["color"], markersize=8 if is_chosen else 3, zorder=4)
        axes.annotate(f"{mark:g}", at, (-6, -3), textcoords="offset points", ha="right", va="top", zorder=5, **look)
        taken.append(at)


def _over_thresholds(axes: Axes, held_out: HeldOut, threshold: float) -> None:
    points = [point(ALL, held_out.scores, held_out.labels, each) for each in THRESHOLDS]
    for name, colour, text in (
        ("precision", "#0072b2", "precision"),
        ("recall", "#009e73", "recall"),
        ("f1", "#808080", "F1"),
        ("kept_share", "#cc79a7", "kept, of all documents"),
    ):
        values: list[Any] = [getattr(each, name) for each in points]
        axes.plot(THRESHOLDS, [np.nan if value is None else value for value in values], color=colour, label=text)
    axes.axvline(threshold, color=CHOSEN, linestyle="--", linewidth=1.2, label=f"threshold {threshold:g}")
    axes.set_xlabel("Threshold on the score")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(loc="best", fontsize="x-small")
    axes.set_title("What a threshold keeps, all years", loc="left")


def _curve(scores: Scores, labels: Labels) -> tuple[Scores, Scores]:
    """Recall and precision at every score that occurs, from the highest."""
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(labels[order])
    # Equal scores are kept together.
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    return right[ends] / max(1, labels.sum()), right[ends] / (ends + 1)


def _place(at: Point) -> tuple[float, float] | None:
    return None if at.precision is None or at.recall is None else (at.recall, at.precision)


def _is_drawn(labels: Labels) -> bool:
    return bool(min(labels.sum(), (~labels).sum()) >= FEWEST_DRAWN)


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _style() -> dict[Any, Any]:
    return {
        "font.size": 10, "axes.titlesize": 10, "axes.grid": True, "axes.axisbelow": True, "grid.color": "#dfe3e8",
        "grid.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7,
        "legend.frameon": False, "lines.linewidth": 1.7,
    }  # fmt: skip
