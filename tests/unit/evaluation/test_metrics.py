"""Accuracy, intervals and pass@k against values worked out by hand."""

from random import Random

import pytest

from megatron_octo.evaluation.metrics import accuracy, paired_difference, pass_at_k


def test_accuracy_is_the_mean_over_questions() -> None:
    result = accuracy([[True, False], [True, True], [False, False], [True, False]])
    assert (result.mean, result.n) == (0.5, 4)


def test_equal_verdicts_leave_no_interval() -> None:
    result = accuracy([[True]] * 10)
    assert (result.low, result.mean, result.high) == (1.0, 1.0, 1.0)


def test_samples_of_one_question_do_not_narrow_the_interval() -> None:
    one = accuracy([[True]] * 20 + [[False]] * 20)
    copied = accuracy([[True] * 8] * 20 + [[False] * 8] * 20)
    assert (copied.low, copied.high) == (one.low, one.high)


def test_the_interval_is_the_binomial_one() -> None:
    result = accuracy([[number < 120] for number in range(400)])
    # 0.3 +- 1.96 * sqrt(0.3 * 0.7 / 400) = 0.3 +- 0.0449; 0.006: what 2,000 draws leave uncertain.
    assert result.low == pytest.approx(0.2551, abs=0.006)
    assert result.high == pytest.approx(0.3449, abs=0.006)


def test_intervals_cover_the_truth_95_times_in_100() -> None:
    random = Random(0)
    worlds = [[[random.random() < 0.4] for _ in range(100)] for _ in range(150)]
    hits = sum((result := accuracy(world)).low <= 0.4 <= result.high for world in worlds)
    # 150 worlds: 95 % +- 3 standard errors of 1.8.
    assert 0.895 <= hits / 150 <= 1


def test_a_paired_difference_is_narrower_than_its_parts() -> None:
    before = [[number % 2 == 0] for number in range(100)]
    after = [[number % 2 == 0 or number < 20] for number in range(100)]
    result = paired_difference(before, after)
    assert result.mean == pytest.approx(0.1)
    # Ten questions of a hundred changed, none to the worse: sd 0.3 / sqrt(100) = 0.03.
    assert result.low == pytest.approx(0.1 - 1.96 * 0.03, abs=0.011)
    assert result.low > 0


def test_a_paired_difference_needs_the_same_questions() -> None:
    with pytest.raises(ValueError, match="2 questions before and 1 after"):
        paired_difference([[True], [True]], [[True]])


@pytest.mark.parametrize(
    ("samples", "correct", "k", "chance"),
    [(4, 0, 2, 0.0), (4, 4, 1, 1.0), (4, 1, 1, 0.25), (4, 1, 2, 0.5), (4, 2, 2, 5 / 6), (5, 3, 3, 1.0)],
)
def test_pass_at_k(samples: int, correct: int, k: int, chance: float) -> None:
    assert pass_at_k(samples, correct, k) == pytest.approx(chance)


def test_pass_at_k_needs_k_samples() -> None:
    with pytest.raises(ValueError, match="pass@5"):
        pass_at_k(4, 1, 5)
