"""Intervals of gains over questions and seeds."""

import numpy as np
import pytest

from megatron_octo.plotting.intervals import Answers, gains

QUESTIONS = 400


def answers(base: float, after: list[float]) -> Answers:
    """The first share of the questions is right."""
    place = np.arange(QUESTIONS) / QUESTIONS
    return Answers(base=(place < base) * 1.0, after=np.array([(place < share) * 1.0 for share in after]))


def test_means_are_those_of_the_answers() -> None:
    found = gains({"stable": answers(0.2, [0.2, 0.3]), "long": answers(0.25, [0.75, 0.65])}, control="stable")
    assert found["long"].after.mean == pytest.approx(0.70)
    assert found["long"].gain.mean == pytest.approx(0.45)
    assert found["long"].over_control is not None
    assert found["long"].over_control.mean == pytest.approx(0.40)
    assert found["stable"].over_control is None


def test_the_interval_of_one_proportion_is_the_normal_one() -> None:
    # One seed, a base that is always wrong: the gain is a proportion of 400 answers, 0.5 +- 1.96 * sqrt(0.25 / 400).
    gain = gains({"stable": answers(0.0, [0.5])}, control="stable")["stable"].gain
    assert gain.low == pytest.approx(0.451, abs=0.006)
    assert gain.high == pytest.approx(0.549, abs=0.006)


def test_a_gain_on_the_same_questions_is_paired() -> None:
    # Every question the base answers stays right: the noise of the questions both get right cancels.
    gain = gains({"stable": answers(0.5, [0.5, 0.5])}, control="stable")["stable"].gain
    assert gain.mean == 0
    # Not 0 to 0, as another question may set them apart: 1.96 * sqrt(2 / 402) / sqrt(402).
    assert (gain.low, gain.high) == (pytest.approx(-0.0069, abs=1e-4), pytest.approx(0.0069, abs=1e-4))
    assert not gain.excludes_zero


def test_seeds_that_disagree_widen_the_interval() -> None:
    def width(after: list[float]) -> float:
        gain = gains({"stable": answers(0.2, after)}, control="stable")["stable"].gain
        return gain.high - gain.low

    assert width([0.2, 0.6, 0.4]) > 2 * width([0.4, 0.4, 0.4])


def test_without_the_control_nothing_is_compared() -> None:
    assert gains({"long": answers(0.2, [0.4])}, control="stable")["long"].over_control is None


@pytest.mark.parametrize("between_seeds", [0.02, 0.15])
def test_intervals_cover_the_true_gain(between_seeds: float) -> None:
    # 100 questions, 5 seeds of different accuracy, answers are independent coins. 100 studies cannot tell 95 % from 92 %,
    # but they catch intervals that forget the seeds (84 at 0.15) or that are much too wide.
    generator = np.random.default_rng(3)
    covered, widths = 0, []
    for _ in range(100):
        shares = np.clip(generator.normal(0.5, between_seeds, size=5), 0, 1)
        after = (generator.random((5, 100)) < shares[:, None]) * 1.0
        base = (generator.random(100) < 0.2) * 1.0
        gain = gains({"stable": Answers(base=base, after=after)}, control="stable")["stable"].gain
        covered += gain.low <= 0.3 <= gain.high
        widths.append(gain.high - gain.low)
    assert covered >= 89
    # The standard error of the gain by hand: seeds, coins after RL, coins of the base.
    standard_error = np.sqrt(between_seeds**2 / 5 + 0.25 / 500 + 0.16 / 100)
    assert np.mean(widths) < 1.5 * 2 * 1.96 * standard_error
