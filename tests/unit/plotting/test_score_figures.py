"""Figures of scores: every model, state and interval is where it belongs."""

import numpy as np
import pytest

from megatron_octo.plotting import exhibits, score_figures
from megatron_octo.plotting.findings import SampledScores
from megatron_octo.plotting.intervals import Interval
from megatron_octo.plotting.score_figures import BeforeAfter

LOW_BASE = Interval(mean=0.1, low=0.05, high=0.15)
HIGH_AFTER = Interval(mean=0.4, low=0.3, high=0.5)


def sampled(name: str, benchmark: str, state: str, *shares: float) -> SampledScores:
    at = {1 << place: Interval(mean=share, low=share - 0.05, high=share + 0.05) for place, share in enumerate(shares)}
    return SampledScores(name=name, benchmark=benchmark, state=state, num_samples=4, pass_at=at, maj_at={})


def test_every_benchmark_has_a_panel_with_all_of_its_models() -> None:
    bars = [
        BeforeAfter(name="stable", benchmark="GSM8K", before=LOW_BASE, after=None),
        BeforeAfter(name="long", benchmark="GSM8K", before=LOW_BASE, after=HIGH_AFTER, after_by_seed=(0.38, 0.42)),
        BeforeAfter(name="long", benchmark="AMC23", before=None, after=HIGH_AFTER),
    ]
    gsm8k, amc23 = score_figures.base_to_rl(bars).axes
    assert [gsm8k.get_title(), amc23.get_title()] == ["GSM8K", "AMC23"]
    assert [label.get_text() for label in gsm8k.get_yticklabels()] == ["stable", "long"]
    assert [text.get_text() for text in gsm8k.texts] == ["10.0", "10.0", "40.0"]
    assert [text.get_text() for text in amc23.texts] == ["40.0"]
    intervals = [tuple(line.get_xdata()) for line in gsm8k.lines if line.get_marker() == "None"]
    assert intervals == [pytest.approx((5, 15)), pytest.approx((5, 15)), pytest.approx((30, 50))]
    assert [list(line.get_xdata()) for line in gsm8k.lines if line.get_marker() == "."] == [[], [38.0, 42.0]]


def test_models_that_never_answer_right_can_be_drawn() -> None:
    nothing = Interval(mean=0.0, low=0.0, high=0.0)
    (axes,) = score_figures.base_to_rl([BeforeAfter(name="a", benchmark="b", before=nothing, after=nothing)]).axes
    assert axes.get_xlim() == pytest.approx((0, 1.12))


def test_pass_at_k_is_drawn_over_powers_of_two_with_bands() -> None:
    found = [sampled("long", "MATH500", "base", 0.1, 0.2, 0.3), sampled("long", "MATH500", "after RL", 0.4, 0.5, 0.55)]
    figure = score_figures.pass_at_k(found)
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "4"]
    base, after = axes.lines
    assert list(base.get_xdata()) == [1, 2, 4]
    assert list(base.get_ydata()) == pytest.approx([10, 20, 30])
    assert (base.get_linestyle(), after.get_linestyle()) == ("--", "-")
    band = np.concatenate([path.vertices for path in axes.collections[1].get_paths()])
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((35, 60))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["long", "base", "after RL"]


def test_the_numbers_of_pass_at_k_have_their_intervals() -> None:
    numbers = exhibits.pass_at_k([sampled("long", "MATH500", "base", 0.5)]).numbers
    assert numbers == (
        {
            "model": "long", "benchmark": "MATH500", "state": "base", "k": 1,
            "pass_at_k": 0.5, "low95": 0.45, "high95": 0.55,
        },
    )  # fmt: skip
