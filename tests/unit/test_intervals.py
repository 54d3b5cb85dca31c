"""Intervals from one value per question; test_metrics.py simulates how often they hold the truth."""

import numpy as np
import pytest

from megatron_octo import intervals


@pytest.mark.parametrize(
    ("mean", "size", "low", "high"),
    # R's prop.test(x, n, correct=FALSE)
    [(0.1, 40, 0.0396, 0.2305), (0.0, 40, 0.0, 0.0876), (1.0, 10, 0.7225, 1.0), (0.5, 1319, 0.4731, 0.5269)],
)
def test_wilson(mean: float, size: int, low: float, high: float) -> None:
    assert intervals.wilson(mean, size) == pytest.approx((low, high), abs=1e-4)


def test_one_question_is_one_answer() -> None:
    assert intervals.of_mean(np.array([1.0]), samples_per_question=1) == intervals.wilson(1.0, 1)


def test_values_between_0_and_1_are_worth_more_than_verdicts() -> None:
    low, high = intervals.of_mean(np.tile([0.4, 0.6], 50), samples_per_question=64)
    few = intervals.wilson(0.5, 100)
    many = intervals.wilson(0.5, 6400)
    assert few[0] < low < many[0] < many[1] < high < few[1]


def test_the_gain_of_equal_models_is_no_point() -> None:
    # Two more questions, one won by each: 1.96 * sqrt(2 / 42) / sqrt(42)
    assert intervals.of_gain(np.zeros(40)) == pytest.approx((-0.0660, 0.0660), abs=1e-4)


def test_the_gain_of_single_samples_is_bonett_and_price_s() -> None:
    # 12 won, 4 lost of 100: 8/102 -+ 1.96 * sqrt((18/102 - (8/102)^2) / 102)
    gains = np.repeat([1.0, -1.0, 0.0], [12, 4, 84])
    assert intervals.of_gain(gains) == pytest.approx((-0.0017, 0.1585), abs=1e-4)


@pytest.mark.parametrize(("freedom", "t"), [(1, 12.706), (4, 2.776), (11, 2.201), (39, 2.0227), (10_000, 1.9602)])
def test_student(freedom: int, t: float) -> None:
    # The series is 0.1 % off where the table ends.
    assert intervals.student(freedom) == pytest.approx(t, rel=1e-3)
