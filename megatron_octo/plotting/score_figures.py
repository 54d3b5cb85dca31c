"""Figures of scores: accuracy before and after RL, and pass@k; a panel per benchmark, every value with its interval."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from megatron_octo.plotting import figures
from megatron_octo.plotting.findings import SampledScores, points
from megatron_octo.plotting.intervals import Interval

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class BeforeAfter:
    """Accuracy of one model on one benchmark before and after RL, in 0..1."""

    name: str
    benchmark: str
    before: Interval | None
    after: Interval | None
    after_by_seed: tuple[float, ...] = ()


def base_to_rl(measured: Sequence[BeforeAfter]) -> Figure:
    """Accuracy before (hollow) and after RL (filled) with 95 % intervals, a panel per benchmark; small dots are single seeds."""
    panels = _by(measured, lambda each: each.benchmark)
    num_rows = max(len(models) for models in panels.values())
    figure, grid = figures.small_multiples(len(panels), height_inches=0.7 + 0.55 * num_rows)
    look = figures.looks(list(dict.fromkeys(each.name for each in measured)))
    for axes, (benchmark, models) in zip(grid, panels.items(), strict=True):
        for row, each in enumerate(models):
            _dumbbell(axes, row, each, *look[each.name])
        axes.set_title(benchmark)
        axes.set_yticks(range(len(models)), [each.name for each in models])
        axes.set_ylim(num_rows - 0.4, -0.6)
        highest = max([0.01, *(each.high for model in models for each in (model.before, model.after) if each)])
        axes.set_xlim(0, 100 * highest * (1.25 if len(panels) > 1 else 1.12))  # room for the numbers
        axes.grid(visible=False, axis="y")
    figure.supxlabel("Accuracy (%)", fontsize="medium")
    figure.legend(handles=_states(base="-"), loc="outside upper center", ncols=2)
    return figure


def pass_at_k(sampled: Sequence[SampledScores]) -> Figure:
    """Share of questions with a right answer among k samples, by k, with 95 % intervals, a panel per benchmark."""
    panels = _by(sampled, lambda each: each.benchmark)
    figure, grid = figures.small_multiples(len(panels), height_inches=2.6 if len(panels) > 1 else 3.6)
    look = figures.looks(list(dict.fromkeys(each.name for each in sampled)))
    for axes, (benchmark, models) in zip(grid, panels.items(), strict=True):
        for each in models:
            _pass_curve(axes, each, *look[each.name])
        axes.set_title(benchmark)
        axes.set_ylim(bottom=0)
        _powers_of_two(axes, max(k for each in models for k in each.pass_at))
    figure.supxlabel("Samples per question, k", fontsize="medium")
    figure.supylabel("Pass@k (%)", fontsize="medium")
    handles = [Line2D([], [], color=colour, marker=marker, label=name) for name, (colour, marker) in look.items()]
    figure.legend(
        handles=handles + _states(base="--"), loc="outside upper center", ncols=3 if max(map(len, look)) <= 16 else 2
    )
    return figure


def _dumbbell(axes: Axes, row: int, measured: BeforeAfter, colour: str, marker: str) -> None:
    ground = mpl.rcParams["axes.facecolor"]
    for interval, height, face in ((measured.before, row - 0.13, ground), (measured.after, row + 0.13, colour)):
        if interval:
            axes.plot([100 * interval.low, 100 * interval.high], [height, height], color=colour, linewidth=1.2)
            axes.plot(100 * interval.mean, height, marker, color=colour, markerfacecolor=face, markersize=7)
            _number(axes, interval.high, height, interval.mean)
    seeds = [100 * accuracy for accuracy in measured.after_by_seed]
    axes.plot(seeds, [row + 0.29] * len(seeds), ".", color=colour, markersize=4, alpha=0.7)


def _number(axes: Axes, right_of: float, row: float, share: float) -> None:
    at = (100 * right_of, row)
    axes.annotate(points(share), at, xytext=(6, 0), textcoords="offset points", va="center", fontsize="small")


def _pass_curve(axes: Axes, sampled: SampledScores, colour: str, marker: str) -> None:
    ks = sorted(sampled.pass_at)
    low, mean, high = (
        [100 * getattr(sampled.pass_at[k], end) for k in ks] for end in ("low", "mean", "high")
    )  # fmt: skip
    axes.fill_between(ks, low, high, color=colour, alpha=0.15, linewidth=0)
    is_base = sampled.state == "base"
    face = mpl.rcParams["axes.facecolor"] if is_base else colour
    axes.plot(ks, mean, "--" if is_base else "-", color=colour, marker=marker, markerfacecolor=face)


def _powers_of_two(axes: Axes, largest: int) -> None:
    """Every power up to `largest` as a tick; every other one where they are many."""
    powers = [1 << exponent for exponent in range(0, largest.bit_length(), 2 if largest > 64 else 1)]
    axes.set_xscale("log", base=2)
    axes.set_xticks(powers, [str(power) for power in powers])


def _by(items: Sequence[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    """Items by their key, in the order of the first ones."""
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _states(*, base: Literal["-", "--"]) -> list[Line2D]:
    """The base model, hollow and with this kind of line, and the one after RL."""
    ink, ground = mpl.rcParams["text.color"], mpl.rcParams["axes.facecolor"]
    return [
        Line2D([], [], color=ink, marker="o", markerfacecolor=ground, linestyle=base, label="base"),
        Line2D([], [], color=ink, marker="o", label="after RL"),
    ]
