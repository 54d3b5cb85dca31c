"""Small multiples of RL curves: a panel per quantity, a line per run, smoothed and with every logged point visible.

A line ends where its run ended, with the marker of its run. Steps are as logged; `plotted_per_step` adds a second scale on top.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from megatron_octo.plotting import curves as rl_curves
from megatron_octo.plotting import figures
from megatron_octo.plotting.curves import ACCURACY, LENGTH_CORRECT, Curve
from megatron_octo.plotting.results import Array

#: Weight of the newest point in the moving mean; the authors' notebooks use 0.45 to 0.95, and 0.45 for OctoThinker.
EMA_ALPHA = 0.45
#: Quantities without a benchmark that a figure shows at most; the numbers of all of them are in its CSV.
MAX_OTHER_PANELS = 8
#: Characters of a run's name in a legend, and of what is measured over a panel.
MAX_LABEL = 44
MAX_TITLE = 34

Quantity = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class CurvePanels:
    """What a figure shows beside the curves."""

    #: Run -> name in the legend, in its order.
    labels: Mapping[str, str]
    #: Steps on the scale on top per logged step; None for none.
    plotted_per_step: int | None = None
    #: A logged step to mark in every panel.
    mark_step: int | None = None
    #: (run, benchmark) -> accuracy in % as a dashed line.
    references: Mapping[tuple[str, str], float]


def draw(curves: Sequence[Curve], panels: CurvePanels) -> Figure:
    """The grid: accuracy left and length right, one row per benchmark; a single column where there is one quantity."""
    shown = quantities(curves)
    figure, grid = figures.small_multiples(
        len(shown),
        height_inches=1.75 if len(shown) > 1 else 3.0,
        legend_inches=0.25 * len(panels.labels) / _num_columns(panels),
    )
    look = figures.looks(list(panels.labels.values()))
    last_step = max(1, *(curve.steps[-1] for curve in curves))
    for axes, quantity in zip(grid, shown, strict=True):
        own = [curve for curve in curves if curve.quantity == quantity]
        _panel(axes, quantity, own, panels, look)
        _mark(axes, panels.mark_step, last_step)
    _step_axes(figure, grid, panels.plotted_per_step, last_step)
    _legend(figure, panels, look)
    return figure


def ema(values: Sequence[float], alpha: float = EMA_ALPHA) -> Array:
    """Exponential moving mean that starts at the first value: `alpha` times the new value, the rest from before."""
    smooth = np.array(values, dtype=np.float64)
    for index in range(1, len(smooth)):
        smooth[index] = alpha * smooth[index] + (1 - alpha) * smooth[index - 1]
    return smooth


def quantities(curves: Sequence[Curve]) -> list[Quantity]:
    """The panels: benchmark by benchmark accuracy and length, then other quantities. Both or none, so that rows stay rows."""
    present = {curve.quantity for curve in curves}
    metrics = [metric for metric in (ACCURACY, LENGTH_CORRECT) if any(metric == each for each, _ in present)]
    known = [(metric, benchmark) for benchmark in rl_curves.benchmarks(curves) for metric in metrics]
    return known + other_quantities(curves)[:MAX_OTHER_PANELS]


def other_quantities(curves: Sequence[Curve]) -> list[Quantity]:
    return list(dict.fromkeys(curve.quantity for curve in curves if not curve.benchmark))


def short_labels(runs: Sequence[str]) -> dict[str, str]:
    """Names of runs without the words that all of them share at both ends, in the middle cut to what a legend holds."""
    words = [re.split(r"(?<=[._/ -])", run) for run in runs]
    start = _shared(words) if len(runs) > 1 else 0
    end = _shared([each[:start:-1] for each in words]) if len(runs) > 1 else 0
    middles = ["".join(each[start : len(each) - end]).rstrip("._/ -") for each in words]
    cut = [_cut(middle or run, MAX_LABEL) for run, middle in zip(runs, middles, strict=True)]
    return dict(zip(runs, cut if len(set(cut)) == len(runs) else runs, strict=True))


def _shared(words: Sequence[Sequence[str]]) -> int:
    """How many of their first words are the same."""
    return sum(1 for _ in itertools.takewhile(lambda same: len(set(same)) == 1, zip(*words, strict=False)))


def _cut(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most // 2) :]}"


def _panel(
    axes: Axes,
    quantity: Quantity,
    curves: Sequence[Curve],
    panels: CurvePanels,
    look: Mapping[str, tuple[str, str]],
) -> None:
    metric, benchmark = quantity
    scale = 100 if metric == ACCURACY else 1
    for run, label in panels.labels.items():
        colour, marker = look[label]
        for curve in curves:
            if curve.run == run:
                _line(axes, curve, scale, colour, marker)
        if curves and metric == ACCURACY and (run, benchmark) in panels.references:
            axes.axhline(
                panels.references[run, benchmark], color=colour, linestyle=(0, (4, 3)), linewidth=0.9, alpha=0.8
            )
    axes.set_title(_title(quantity), loc="left", fontsize=9.5)
    if benchmark:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if not curves:
        axes.text(0.5, 0.5, "not in the export", transform=axes.transAxes, ha="center", va="center", fontsize="small")


def _line(axes: Axes, curve: Curve, scale: int, colour: str, marker: str) -> None:
    values = scale * np.array(curve.values)
    smooth = ema(values.tolist())
    axes.plot(curve.steps, values, ".", color=colour, markersize=3, alpha=0.5, markeredgewidth=0)
    axes.plot(curve.steps, smooth, color=colour, linewidth=1.5)
    axes.plot(curve.steps[-1], smooth[-1], marker, color=colour, clip_on=False, zorder=3)


def _title(quantity: Quantity) -> str:
    metric, benchmark = quantity
    unit = {ACCURACY: ": accuracy (%)", LENGTH_CORRECT: ": tokens if correct"}.get(metric, "")
    return _cut(benchmark or metric, MAX_TITLE - len(unit)) + unit


def _mark(axes: Axes, step: int | None, last_step: int) -> None:
    """Only where curves go on behind it."""
    if step is not None and last_step > step:
        axes.axvline(step, color=mpl.rcParams["text.color"], linestyle=":", linewidth=0.9)


def _step_axes(figure: Figure, grid: Sequence[Axes], plotted_per_step: int | None, last_step: int) -> None:
    """The same ticks in all panels: logged steps below the lowest of each column, the second scale above the highest."""
    ticks = [int(step) for step in MaxNLocator(5, integer=True).tick_values(0, last_step) if 0 <= step <= last_step]
    num_columns = min(2, len(grid))
    for place, axes in enumerate(grid):
        axes.set_xlim(0, 1.02 * last_step)
        axes.set_xticks(ticks)
        axes.tick_params(labelbottom=place >= len(grid) - num_columns)
        if plotted_per_step is not None and place < num_columns:
            top = axes.secondary_xaxis("top")
            top.set_xticks(ticks, [f"{plotted_per_step * tick:,}" for tick in ticks])
            top.set_xlabel(f"step of the paper's figures (× {plotted_per_step})", fontsize="small")
            top.tick_params(labelsize="small")
    figure.supxlabel("RL step, as logged", fontsize="medium")


def _legend(figure: Figure, panels: CurvePanels, look: Mapping[str, tuple[str, str]]) -> None:
    handles = [
        Line2D([], [], color=look[label][0], marker=look[label][1], label=label) for label in panels.labels.values()
    ]
    ink = mpl.rcParams["text.color"]
    if panels.references:
        handles.append(Line2D([], [], color=ink, linestyle=(0, (4, 3)), linewidth=0.9, label="base, few-shot"))
    figure.legend(handles=handles, loc="outside upper center", ncols=_num_columns(panels))


def _num_columns(panels: CurvePanels) -> int:
    """How many labels fit side by side."""
    longest, count = max(map(len, panels.labels.values())), len(panels.labels) + bool(panels.references)
    return min(count, 1 if longest > 26 else 2 if longest > 15 or count == 4 else 3)
