"""The figures, drawn in the paper's manner: values in, a matplotlib `Figure` out. `style` holds for drawing and saving.

A model keeps one colour and one marker through all figures (Okabe and Ito's colours, told apart by the colour-blind and at
least 3:1 against both grounds). Figures are 5.6 inches wide so that their text can be read on a phone.
"""

import contextlib
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from megatron_octo import units
from megatron_octo.plotting.results import Array, ModelResults, RLRun, TrainingRun, series

TOKENS_LABEL = "Tokens, the parent's included"
WIDTH_INCHES = 5.6
DPI = 200
#: By what a model's name contains, so that `long` and `llama32_3b.decay_long` look alike.
LOOKS = {
    "base": ("#a0a0a0", "p"),
    "stable": ("#808080", "s"),
    "long": ("#d55e00", "o"),
    "short": ("#0072b2", "^"),
    "hybrid": ("#009e73", "D"),
}
#: Grey: what others are compared with.
GREY = ("base", "stable")
OTHER_LOOKS = (("#cc79a7", "v"), ("#b8860b", "P"), ("#3b9bd6", "X"), ("#8c6bb1", "*"))
INK_AND_GROUND = {"light": ("#1f2328", "#ffffff", "#dfe3e8"), "dark": ("#e4e6ea", "#171a1f", "#363b44")}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One quantity of the RL runs by step. `scale` 100 turns shares into percent."""

    metric: str
    label: str
    scale: float = 1.0
    #: Mark where the cap on response tokens changes.
    shows_caps: bool = False


@contextlib.contextmanager
def style(theme: str) -> Iterator[None]:
    """Matplotlib's settings for a `light` or `dark` ground."""
    ink, ground, grid = INK_AND_GROUND[theme]
    inks = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")
    settings: dict[Any, Any] = {
        **dict.fromkeys(inks, ink),
        "figure.facecolor": ground, "axes.facecolor": ground, "axes.edgecolor": ink, "grid.color": grid,
        "axes.grid": True, "grid.linewidth": 0.6, "axes.axisbelow": True, "axes.linewidth": 0.7,
        "axes.spines.top": False, "axes.spines.right": False,
        "font.size": 10.5, "axes.titlesize": 10.5, "legend.frameon": False, "legend.handlelength": 1.4,
        "lines.linewidth": 1.7, "lines.markersize": 4.5,
    }  # fmt: skip
    with mpl.rc_context(settings):
        yield


def png(figure: Figure) -> bytes:
    """The figure as PNG of 256 colours, a third of the bytes; the same values give the same bytes."""
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=DPI)
    with Image.open(full) as drawn:
        few_colours = drawn.convert("RGB").quantize(method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few_colours.save(small, format="png", optimize=True)
    return small.getvalue()


def looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each model; those of no known kind take what is left, in turn."""
    known = {name: look for name in names for key, look in LOOKS.items() if key in name.lower()}
    unused = [look for kind, look in LOOKS.items() if look not in known.values() and kind not in GREY]
    free = _looks_in_turn((*unused, *OTHER_LOOKS))
    return {name: known.get(name) or next(free) for name in names}


def _looks_in_turn(free: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """All of them, then their colours with other markers."""
    for turn in itertools.count():
        for place, (colour, _) in enumerate(free):
            yield colour, free[(place + turn) % len(free)][1]


def moving_mean(values: Array, window: int) -> Array:
    """Mean over `window` neighbours, centred; at the ends over those that exist."""
    if not len(values):
        return values
    kernel = np.ones(min(window, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")


def mid_training(runs: Sequence[TrainingRun], *, window: int) -> Figure:
    """Loss of every step (faint) and its moving mean against total tokens, the learning rate under it, branch points marked."""
    figure = Figure(figsize=(WIDTH_INCHES, 5.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    look = looks([run.name for run in runs])
    for run in runs:
        colour = look[run.name][0]
        _raw_and_smooth(upper, *series(run.rows, "total_tokens", "loss"), window=window, colour=colour)
        lower.plot(*series(run.rows, "total_tokens", "learning_rate"), color=colour)
    _limit_to_smooth(upper, runs, "loss", window)
    for axes in (upper, lower):
        _mark_branch_points(axes, runs)
    _name_branch_points(upper, runs)
    upper.set_ylabel("Loss (nats per token)")
    lower.set_ylabel("Learning rate")
    lower.set_ylim(bottom=0)
    lower.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    lower.set_xlabel(TOKENS_LABEL)
    _token_axis(lower)
    _legend(figure, look, markers=False)
    return figure


def corpus_losses(runs: Sequence[TrainingRun], *, window: int) -> Figure:
    """Loss on each corpus against total tokens, one panel per corpus."""
    corpora = list(dict.fromkeys(corpus for run in runs for corpus in run.corpora))
    num_rows = -(-len(corpora) // 2)
    figure = Figure(figsize=(WIDTH_INCHES, 0.5 + 1.9 * num_rows), layout="constrained")
    grid = figure.subplots(num_rows, 2, sharex=True, squeeze=False).flatten()
    look = looks([run.name for run in runs])
    for axes, corpus in zip(grid, corpora, strict=False):
        for run in runs:
            curve = series(run.rows, "total_tokens", f"loss/{corpus}")
            _raw_and_smooth(axes, *curve, window=window, colour=look[run.name][0])
        _limit_to_smooth(axes, runs, f"loss/{corpus}", window)
        _mark_branch_points(axes, runs)
        axes.set_title(corpus)
    for axes in grid[len(corpora) :]:
        axes.set_axis_off()
    for axes in grid[max(0, len(corpora) - 2) : len(corpora)]:
        axes.tick_params(labelbottom=True)
        _token_axis(axes)
    figure.supylabel("Loss (nats per token)", fontsize="medium")
    figure.supxlabel(TOKENS_LABEL, fontsize="medium")
    _legend(figure, look, markers=False)
    return figure


def rl_dynamics(models: Sequence[ModelResults], panels: Sequence[Panel]) -> Figure:
    """Evaluations during RL by step: the mean over seeds and the range from lowest to highest seed."""
    figure = Figure(figsize=(WIDTH_INCHES, 0.6 + 2.9 * len(panels)), layout="constrained")
    column = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    look = looks([model.name for model in models])
    shown = {model.name: look[model.name] for model in models if model.rl}
    for axes, panel in zip(column, panels, strict=True):
        for model in models:
            _seed_band(axes, model.rl, panel, *look[model.name])
        if panel.shows_caps:
            _mark_caps(axes, [run for model in models for run in model.rl])
        axes.set_ylabel(panel.label)
        axes.set_ylim(bottom=0)
    column[-1].set_xlabel("RL step (one batch of prompts)")
    column[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(figure, shown)
    return figure


def over_seeds(runs: Sequence[RLRun], metric: str) -> tuple[Array, Array]:
    """A metric at the steps every seed has it: steps (steps,) and values (seeds, steps)."""
    curves = [dict(zip(*series(run.rows, "step", metric), strict=True)) for run in runs]
    steps = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    return np.array(steps, dtype=np.float64), np.array([[curve[step] for step in steps] for curve in curves])


def small_multiples(count: int, *, height_inches: float, legend_inches: float = 0.3) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels of this height, two beside each other, one alone over the whole width."""
    num_columns = min(2, count)
    num_rows = -(-count // num_columns)
    figure = Figure(figsize=(WIDTH_INCHES, 0.5 + legend_inches + height_inches * num_rows), layout="constrained")
    grid = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
    for axes in grid[count:]:
        axes.set_axis_off()
    return figure, list(grid[:count])


def _raw_and_smooth(axes: Axes, x: Array, y: Array, *, window: int, colour: str) -> None:
    if len(x):
        axes.plot(x, y, ".", color=colour, markersize=1.6, alpha=0.25, markeredgewidth=0)
        axes.plot(x, moving_mean(y, window), color=colour)


def _limit_to_smooth(axes: Axes, runs: Sequence[TrainingRun], metric: str, window: int) -> None:
    """Fit the smoothed curves, without the first tenth of runs that branch from nothing: it would flatten the rest."""
    smooth = []
    for run in runs:
        values = moving_mean(series(run.rows, "total_tokens", metric)[1], window)
        smooth.append(values[len(values) // 10 if run.branch_tokens is None else 0 :])
    shown = np.concatenate(smooth)
    if len(shown):
        margin = 0.08 * np.ptp(shown) or 0.1
        axes.set_ylim(shown.min() - margin, shown.max() + margin)


def _mark_branch_points(axes: Axes, runs: Sequence[TrainingRun]) -> None:
    for tokens in sorted({run.branch_tokens for run in runs if run.branch_tokens is not None}):
        axes.axvline(tokens, color=mpl.rcParams["text.color"], linestyle=":", linewidth=1)


def _name_branch_points(axes: Axes, runs: Sequence[TrainingRun]) -> None:
    for tokens in {run.branch_tokens for run in runs if run.branch_tokens is not None}:
        label = f"branch point, {units.count(tokens)} "
        at_top = axes.get_xaxis_transform()
        axes.text(tokens, 0.97, label, transform=at_top, va="top", ha="right", fontsize="small")


def _token_axis(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.count(value)))


def _seed_band(axes: Axes, runs: Sequence[RLRun], panel: Panel, colour: str, marker: str) -> None:
    steps, values = over_seeds(runs, panel.metric)
    if not len(steps):
        return
    values = values * panel.scale
    if len(runs) > 1:
        axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.18, linewidth=0)
    axes.plot(steps, values.mean(axis=0), color=colour, marker=marker)


def _mark_caps(axes: Axes, runs: Sequence[RLRun]) -> None:
    """A line where a run's cap on response tokens changes, with the new cap."""
    stages = {
        (stage["from_step"], stage["max_response_tokens"]) for run in runs for stage in run.recipe["length_schedule"]
    }
    for step, cap in sorted(stages):
        if step:
            axes.axvline(step, color=mpl.rcParams["text.color"], linestyle="--", linewidth=0.9)
            at_top = axes.get_xaxis_transform()
            axes.text(step, 1.0, f" cap {cap:,}", transform=at_top, va="bottom", ha="center", fontsize="small")


def _legend(figure: Figure, look: Mapping[str, tuple[str, str]], *, markers: bool = True) -> None:
    handles = [
        Line2D([], [], color=colour, marker=marker if markers else "", label=name)
        for name, (colour, marker) in look.items()
    ]
    # Four short names fit side by side.
    num_columns = 4 if max(map(len, look), default=0) <= 10 else 2
    figure.legend(handles=handles, loc="outside upper center", ncols=min(num_columns, len(handles)))
