"""Accuracy, intervals, pass@k and maj@k against values worked out by hand, closed forms and simulations."""

import itertools
import time
from math import comb

import numpy as np
import pytest

from megatron_octo.evaluation import metrics
from megatron_octo.evaluation.metrics import accuracy, maj_at, paired_difference, pass_at, pass_at_k, sign_flip_p

# Accuracy and its interval --------------------------------------------------------------------------------------------


def test_accuracy_is_the_mean_over_questions() -> None:
    result = accuracy([[True, False], [True, True], [False, False], [True, False]])
    assert (result.mean, result.n) == (0.5, 4)


def test_the_interval_of_single_samples_is_wilson_s() -> None:
    result = accuracy([[number < 4] for number in range(40)])
    # Worked out for 4 of 40: (0.1 + 0.0480) / 1.0960 -+ 1.96 / 1.0960 * sqrt(0.09 / 40 + 0.0006)
    assert (result.low, result.high) == (pytest.approx(0.0396, abs=1e-4), pytest.approx(0.2305, abs=1e-4))


@pytest.mark.parametrize(("right", "low", "high"), [(False, 0.0, 0.0876), (True, 0.9124, 1.0)])
def test_all_right_and_all_wrong_are_no_certainty(right: bool, low: float, high: float) -> None:
    # z^2 / (40 + z^2) = 0.0876
    result = accuracy([[right]] * 40)
    assert (result.low, result.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_samples_that_repeat_one_another_do_not_narrow_the_interval() -> None:
    one = accuracy([[True]] * 20 + [[False]] * 20)
    copied = accuracy([[True] * 8] * 20 + [[False] * 8] * 20)
    assert (copied.low, copied.high) == (one.low, one.high)


def test_samples_are_worth_no_more_than_as_many_questions() -> None:
    # Every question is right exactly half of the time.
    found = accuracy([[number % 2 == 0 for number in range(20)]] * 40)
    assert found.low == pytest.approx(accuracy([[number % 2 == 0] for number in range(800)]).low)


def binomial(size: int, rate: float) -> np.ndarray:
    return np.array([comb(size, right) * rate**right * (1 - rate) ** (size - right) for right in range(size + 1)])


@pytest.mark.parametrize(
    ("size", "rate", "percent"),
    [
        (40, 0.1, 94.33), (40, 0.5, 96.15), (40, 0.9, 94.33), (200, 0.1, 95.61), (200, 0.5, 94.40), (200, 0.9, 95.61),
        # 40 questions have 41 outcomes: as the rate moves, coverage jumps, here out of 93.5 to 96.5 %
        (40, 0.2, 92.83),
    ],
)  # fmt: skip
def test_exact_coverage_of_single_samples(size: int, rate: float, percent: float) -> None:
    """No simulation: the chance of every number of right answers whose interval holds the rate."""
    found = [accuracy([[number < right] for number in range(size)]) for right in range(size + 1)]
    holds = [interval.low <= rate <= interval.high for interval in found]
    assert 100 * binomial(size, rate)[holds].sum() == pytest.approx(percent, abs=0.01)


def covered(shares: np.ndarray, samples: int, truth: float) -> float:
    found = [metrics.mean_interval(values, samples_per_question=samples) for values in shares]
    return float(np.mean([each.low <= truth <= each.high for each in found]))


#: Two samples of one question are `alike` by this correlation; with hardly any, intervals may be wider than need be.
@pytest.mark.parametrize("size", [40, 200, 1319])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    ("samples", "alike", "most"), [(1, 0.5, 0.965), (8, 0.3, 0.965), (8, 0.7, 0.965), (64, 0.3, 0.965), (64, 0.05, 1.0)]
)
def test_intervals_hold_the_truth_95_times_in_100(
    size: int, rate: float, samples: int, alike: float, most: float
) -> None:
    generator = np.random.default_rng(1)
    chances = generator.beta(rate * (1 / alike - 1), (1 - rate) * (1 / alike - 1), size=(2_500, size))
    assert 0.935 <= covered(generator.binomial(samples, chances) / samples, samples, rate) <= most


@pytest.mark.parametrize(("size", "rate", "samples", "k"), [(40, 0.5, 256, 64), (200, 0.9, 64, 16), (200, 0.5, 64, 16)])
def test_intervals_of_pass_at_k_near_1_hold_the_truth(size: int, rate: float, samples: int, k: int) -> None:
    """The few questions that decide may be missing from the set."""
    right, wrong = rate * (1 / 0.3 - 1), (1 - rate) * (1 / 0.3 - 1)
    generator = np.random.default_rng(1)
    counts = generator.binomial(samples, generator.beta(right, wrong, size=(2_500, size)))
    chances = np.array([pass_at_k(samples, correct, k) for correct in range(samples + 1)])
    truth = 1 - np.prod([(wrong + drawn) / (right + wrong + drawn) for drawn in range(k)])
    assert covered(chances[counts], samples, float(truth)) >= 0.935


# pass@k ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "correct", "k", "chance"),
    [(4, 0, 2, 0.0), (4, 4, 1, 1.0), (4, 1, 1, 0.25), (4, 1, 2, 0.5), (4, 2, 2, 5 / 6), (5, 3, 3, 1.0)],
)
def test_pass_at_k(samples: int, correct: int, k: int, chance: float) -> None:
    assert pass_at_k(samples, correct, k) == pytest.approx(chance)


@pytest.mark.parametrize("k", [1, 2, 4, 7])
def test_pass_at_k_counts_subsets(k: int) -> None:
    verdicts = [True, False, True, False, False, False, True]
    subsets = list(itertools.combinations(verdicts, k))
    assert pass_at_k(7, 3, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize("k", [1, 16, 256])
def test_pass_at_k_equals_the_closed_form_of_synthetic_counts(k: int) -> None:
    """Questions with 0, 1, ... 256 right samples: the mean of 1 - C(256 - c, k) / C(256, k) is k / (k + 1)."""
    verdicts = np.arange(256) < np.arange(257)[:, None]
    assert pass_at(verdicts, k).mean == pytest.approx(k / (k + 1), rel=1e-12)


def test_pass_at_k_needs_k_samples() -> None:
    with pytest.raises(ValueError, match="pass@5"):
        pass_at_k(4, 1, 5)


# maj@k ----------------------------------------------------------------------------------------------------------------


def majority(answers: tuple[int, ...]) -> int:
    """The commonest, of equal ones the first; -1 votes for nothing."""
    votes = [answer for answer in answers if answer >= 0]
    return max(votes, key=votes.count) if votes else -1


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_maj_at_k_is_the_mean_over_all_draws(k: int) -> None:
    answers = [7, 7, 3, -1, 4]
    draws = list(itertools.permutations(answers, k))
    expected = sum(majority(draw) == 7 for draw in draws) / len(draws)
    found = maj_at([[answer == 7 for answer in answers]] * 200, [answers] * 200, [k])[k]
    # 200 questions x 256 draws: 3 standard errors are 0.007
    assert found.mean == pytest.approx(expected, abs=0.007)


def test_maj_at_1_is_accuracy() -> None:
    verdicts = np.random.default_rng(0).random((50, 6)) < 0.4
    assert maj_at(verdicts, verdicts.astype(int), [1, 4])[1] == accuracy(verdicts)


def test_two_spellings_of_the_right_answer_are_two_answers() -> None:
    assert maj_at([[True, True, False, False, False]], [[0, 1, 2, 2, 2]], [5])[5].mean == 0


def test_no_votes_are_wrong() -> None:
    assert maj_at([[False, False]], [[-1, -1]], [2])[2].mean == 0


# Two models -----------------------------------------------------------------------------------------------------------


def test_a_paired_difference_is_narrower_than_its_parts() -> None:
    before = [[number % 2 == 0] for number in range(100)]
    after = [[number % 2 == 0 or number < 20] for number in range(100)]
    result = paired_difference(before, after)
    # Ten questions of a hundred changed, none to the worse; Bonett and Price: 10/102 -+ 1.96 sqrt((12/102 - (10/102)^2) / 102)
    assert (result.mean, result.n) == (pytest.approx(0.1), 100)
    assert (result.low, result.high) == (pytest.approx(0.0342, abs=1e-4), pytest.approx(0.1619, abs=1e-4))
    # McNemar: ten coins on one side, either side
    assert result.p_value == pytest.approx(2 / 2**10)


def test_models_that_agree_everywhere_are_not_certainly_equal() -> None:
    result = paired_difference([[True]] * 40, [[True]] * 40)
    # 1.96 sqrt(2 / 42) / sqrt(42)
    assert (result.low, result.mean, result.high) == (
        pytest.approx(-0.0660, abs=1e-4),
        0,
        pytest.approx(0.0660, abs=1e-4),
    )
    assert result.p_value == 1


def test_a_paired_difference_needs_the_same_questions() -> None:
    with pytest.raises(ValueError, match="2 questions before and 1 after"):
        paired_difference([[True], [True]], [[True]])


def test_models_may_differ_in_samples() -> None:
    assert paired_difference([[True], [False]], [[True, True], [True, False]]).mean == 0.25


@pytest.mark.parametrize("size", [40, 200, 1319])
@pytest.mark.parametrize(("before", "after"), [(0.5, 0.5), (0.1, 0.2), (0.8, 0.9)])
def test_paired_intervals_hold_the_truth(size: int, before: float, after: float) -> None:
    generator = np.random.default_rng(3)
    gains = (generator.random((2_500, size)) < after).astype(float) - (generator.random((2_500, size)) < before)
    found = [metrics.difference(gained) for gained in gains]
    held = np.mean([each.low <= after - before <= each.high for each in found])
    assert 0.935 <= held <= 0.965


def test_the_p_value_of_a_few_differences_counts_all_flips() -> None:
    gains = np.array([0.5, 0.25, -0.25, 0.75, 0.0, 0.5])
    flips = [np.dot(signs, gains[gains != 0]) for signs in itertools.product((1, -1), repeat=5)]
    assert sign_flip_p(gains) == pytest.approx(np.mean(np.abs(flips) >= 1.75))


def test_drawn_flips_agree_with_counted_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    gains = np.repeat([1.0, -1.0, 0.0], [30, 16, 200])
    exact = sign_flip_p(gains)
    monkeypatch.setattr(metrics, "MOST_FLIPS", 0)
    # p is about 0.054: 20,000 draws are 0.005 off at three standard errors
    assert sign_flip_p(gains) == pytest.approx(exact, abs=0.005)
    assert sign_flip_p(gains, seed=1) == sign_flip_p(gains, seed=1)


def test_p_values_of_equal_models_are_no_smaller_than_they_say() -> None:
    generator = np.random.default_rng(0)
    p_values = [
        sign_flip_p(generator.binomial(4, 0.5, 60) / 4 - generator.binomial(4, 0.5, 60) / 4) for _ in range(300)
    ]
    # 5 % of 300 are 15; 4 standard errors
    assert sum(p <= 0.05 for p in p_values) <= 30


def test_many_samples_take_less_than_a_second() -> None:
    generator = np.random.default_rng(0)
    verdicts = generator.random((5_000, 256)) < generator.random((5_000, 1))
    started = time.process_time()
    accuracy(verdicts)
    for k in (1, 16, 256):
        pass_at(verdicts, k)
    assert time.process_time() - started < 1
