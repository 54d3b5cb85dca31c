"""Curves and what marks them."""

from pathlib import Path

import numpy as np
import pytest

from megatron_octo.plotting import exhibits, figures, findings, results
from megatron_octo.plotting.config import Report
from megatron_octo.plotting.figures import Panel
from megatron_octo.plotting.results import RLRun, TrainingRun

RECIPE = {"seed": 1, "length_schedule": [{"from_step": 0, "max_response_tokens": 64}], "eval_sets": ["test"]}


def test_a_moving_mean_is_centred_and_shorter_at_the_ends() -> None:
    assert figures.moving_mean(np.array([1.0, 2.0, 6.0, 4.0]), 3).tolist() == [1.5, 3.0, 4.0, 5.0]


def test_only_steps_that_all_seeds_have_are_averaged() -> None:
    runs = [
        RLRun(recipe=RECIPE, rows=({"step": 0, "a": 0.1}, {"step": 4, "a": 0.3}, {"step": 8, "a": 0.5})),
        RLRun(recipe=RECIPE, rows=({"step": 0, "a": 0.2}, {"step": 4, "a": None}, {"step": 8, "a": 0.7})),
    ]
    steps, values = figures.over_seeds(runs, "a")
    assert steps.tolist() == [0, 8]
    assert values.tolist() == [[0.1, 0.5], [0.2, 0.7]]


@pytest.mark.parametrize("name", ["long", "llama32_3b.decay_long"])
def test_a_model_keeps_its_colour(name: str) -> None:
    assert figures.looks(["other", name])[name] == ("#d55e00", "o")


def test_grey_is_for_what_others_are_compared_with() -> None:
    found = figures.looks(["base", "stable", "mine"])
    assert [colour for colour, _ in found.values()] == ["#a0a0a0", "#808080", "#d55e00"]
    assert figures.looks(["mine"])["mine"] == ("#d55e00", "o")


def test_unknown_models_get_different_looks() -> None:
    assert len(set(figures.looks(["a", "b", "c"]).values())) == 3


def test_mid_training_shares_its_axis_and_marks_the_branch_point(study: tuple[Report, Path]) -> None:
    runs = [model.training for model in results.read(study[0]) if model.training]
    loss, rate = figures.mid_training(runs, window=5).axes
    assert loss.get_shared_x_axes().joined(loss, rate)
    # 60 steps of 1,024 tokens before the branches leave.
    assert [line.get_xdata()[0] for line in loss.lines if line.get_linestyle() == ":"] == [61_440]
    assert [text.get_text() for text in loss.texts] == ["branch point, 61.4K "]
    curves = [line for line in rate.lines if line.get_linestyle() == "-"]
    assert [curve.get_xdata()[-1] for curve in curves] == [61_440, 92_160, 92_160, 92_160]


def test_every_corpus_has_a_panel(study: tuple[Report, Path]) -> None:
    runs = [model.training for model in results.read(study[0]) if model.training]
    panels = [axes.get_title() for axes in figures.corpus_losses(runs, window=5).axes if axes.axison]
    assert panels == ["web", "qa", "qa_long", "qa_short"]


def test_rl_dynamics_draw_mean_band_and_cap(study: tuple[Report, Path]) -> None:
    models = results.read(study[0])
    panel = Panel(metric="eval/test/accuracy", label="Accuracy (%)", scale=100, shows_caps=True)
    (axes,) = figures.rl_dynamics(models, [panel]).axes
    assert len(axes.collections) == 4
    assert axes.lines[1].get_xdata().tolist() == [0, 4, 8, 12, 16, 20, 24]
    assert axes.lines[1].get_ydata()[0] == pytest.approx(30)
    assert [text.get_text() for text in axes.texts] == [" cap 128"]


def test_the_table_behind_the_bars_has_the_intervals(study: tuple[Report, Path]) -> None:
    exhibit = exhibits.base_to_rl(findings.outcomes(results.read(study[0]), "gsm8k"))
    header, stable, long, *_ = exhibits.to_csv(exhibit.numbers).splitlines()
    assert header.startswith("model,benchmark,questions,seeds,base,base_low95,base_high95,after_rl")
    assert stable.startswith("stable,GSM8K,40,2,0.2,")
    assert long.startswith("long,GSM8K,40,2,0.3,")


def test_a_csv_leaves_blanks() -> None:
    assert exhibits.to_csv([{"a": 1}, {"a": 2, "b": 'x,"y"'}]) == 'a,b\n1,\n2,"x,""y"""\n'


def test_one_window_for_all_runs() -> None:
    runs = [TrainingRun(name=str(n), rows=({"loss": 1.0},) * n, recipe={}) for n in (10, 400)]
    assert exhibits.smoothing_window(runs) == 10
