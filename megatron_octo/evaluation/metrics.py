"""What verdicts add up to: accuracy, pass@k, maj@k and a paired difference, each with its interval. Pure functions of numbers.

Verdicts are (questions, samples) of 0 and 1. Samples of one question stand or fall together, so all intervals are over
questions (clusters; Miller, 2024, arXiv 2411.00640). megatron_octo/intervals.py says how.

5,000 questions of 256 samples, one thread: accuracy and pass@k milliseconds, maj@k of all k together under a second.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megatron_octo import intervals

#: Samples looked at for maj@k: small sets take more draws.
VOTED_SAMPLES = 2**21
LEAST_VOTES, MOST_VOTES = 8, 256
#: Ways to flip signs that are counted out; beyond, so many are drawn.
MOST_FLIPS = 100_000
FLIP_DRAWS = 20_000

Array = intervals.Array
#: (questions, samples), 0 or 1.
Verdicts = Sequence[Sequence[bool]] | npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over `n` questions with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Difference(Interval):
    """A mean of gains, and the chance of one at least as large where no model is better."""

    p_value: float


def accuracy(verdicts: Verdicts) -> Interval:
    """Mean over questions of the share of right samples."""
    return mean_interval(_shares(verdicts), samples_per_question=len(verdicts[0]))


def pass_at(verdicts: Verdicts, k: int) -> Interval:
    """Mean over questions of the chance that one of k samples is right."""
    right = np.asarray(verdicts, dtype=np.bool_)
    size = right.shape[1]
    chances = np.array([pass_at_k(size, num_correct, k) for num_correct in range(size + 1)])
    return mean_interval(chances[right.sum(axis=1)], samples_per_question=size)


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Chance that k of a question's samples, drawn without replacement, hold a right one (Chen et al., 2021, eq. 1)."""
    if not 0 <= num_correct <= num_samples or not 1 <= k <= num_samples:
        raise ValueError(
            f"pass@{k} of {num_correct} right among {num_samples} samples; need right and k at most samples"
        )
    return 1 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def maj_at(
    verdicts: Verdicts, answers: Sequence[Sequence[int]] | npt.NDArray[np.integer], ks: Sequence[int], *, seed: int = 0
) -> dict[int, Interval]:
    """Mean over questions of the chance that the commonest answer among k samples is right, for each k.

    The mean over seeded draws of k of the samples without replacement (8 to 256 a question, by `VOTED_SAMPLES`), so
    unbiased at every k. Of equally common answers the one that got there first wins: each as likely as the others.

    Args:
        answers: (questions, samples) of numbers from 0 up, the same for equal answers of a question; -1 has no vote.
    """
    right, voted = np.asarray(verdicts, dtype=np.bool_), np.asarray(answers)
    num_questions, size = right.shape
    draws = min(MOST_VOTES, max(LEAST_VOTES, VOTED_SAMPLES // right.size))
    generator = np.random.default_rng(seed)
    wins = np.zeros((len(ks), num_questions))
    for _ in range(draws):
        order = generator.permuted(np.broadcast_to(np.arange(size), right.shape), axis=1)
        wins += _winners(np.take_along_axis(right, order, 1), np.take_along_axis(voted, order, 1), ks)
    chances = dict(zip(ks, wins / draws, strict=True))
    if 1 in chances:  # known without a draw
        chances[1] = _shares(right & (voted >= 0))
    return {k: mean_interval(values, samples_per_question=size) for k, values in chances.items()}


def mean_interval(values: Array, *, samples_per_question: int) -> Interval:
    """Mean of values in 0..1, one per question."""
    low, high = intervals.of_mean(values, samples_per_question=samples_per_question)
    return Interval(mean=float(values.mean()), low=low, high=high, n=len(values))


def paired_difference(before: Verdicts, after: Verdicts, *, seed: int = 0) -> Difference:
    """Gain in accuracy from one model to another on the same questions in the same order."""
    if len(before) != len(after):
        raise ValueError(
            f"{len(before)} questions before and {len(after)} after; a paired difference needs the same ones"
        )
    return difference(_shares(after) - _shares(before), seed=seed)


def difference(gains: Array, *, seed: int = 0) -> Difference:
    """Mean of gains in -1..1, one per question."""
    low, high = intervals.of_gain(gains)
    return Difference(
        mean=float(gains.mean()),
        low=max(low, -1.0),
        high=min(high, 1.0),
        n=len(gains),
        p_value=sign_flip_p(gains, seed=seed),
    )


def sign_flip_p(gains: Array, *, seed: int = 0) -> float:
    """Two-sided p value of a mean of gains that could as well have had the other sign (Fisher, 1935).

    Exact where the ways to flip can be counted, as with one sample a question, where it is McNemar's exact test; else of
    20,000 seeded draws, the data's own among them (Phipson and Smyth, 2010).
    """
    flipped = np.round(gains, 12)  # 2/3 - 1/3 and 1/3 are one size
    sizes, counts = np.unique(np.abs(flipped[flipped != 0]), return_counts=True)
    observed = abs(flipped.sum()) - 1e-9
    if math.prod(int(count) + 1 for count in counts) <= MOST_FLIPS:
        sums, chances = _all_flips(sizes, counts)
        return float(min(1.0, chances[np.abs(sums) >= observed].sum()))
    positive = np.random.default_rng(seed).binomial(counts, 0.5, size=(FLIP_DRAWS, len(counts)))
    sums = (2 * positive - counts) @ sizes
    return float((1 + (np.abs(sums) >= observed).sum()) / (1 + FLIP_DRAWS))


def _shares(verdicts: Verdicts) -> Array:
    shares: Array = np.asarray(verdicts, dtype=np.float64).mean(axis=1)
    return shares


def _winners(right: npt.NDArray[np.bool_], answers: npt.NDArray[np.integer], ks: Sequence[int]) -> Array:
    """(ks, questions): whether the commonest of the first k answers is right; wrong where none of them votes."""
    num_questions, size = answers.shape
    rows = np.arange(num_questions)
    counts = np.zeros((num_questions, answers.max(initial=0) + 2), dtype=np.int32)  # the last one is that of -1
    most = np.zeros(num_questions, dtype=np.int32)
    winning = np.zeros(num_questions, dtype=np.bool_)
    won = {}
    for place in range(size):
        voted = answers[:, place]
        counts[rows, voted] += 1
        reached = np.where(voted >= 0, counts[rows, voted], 0)
        leads = reached > most
        winning = np.where(leads, right[:, place], winning)
        most = np.maximum(most, reached)
        if place + 1 in ks:
            won[place + 1] = winning
    return np.array([won[k] for k in ks], dtype=np.float64)


def _all_flips(sizes: Array, counts: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """Every sum that flipped signs can give, and its chance; equal differences flip as a binomial number of pluses."""
    sums, chances = np.zeros(1), np.ones(1)
    for size, count in zip(sizes, counts, strict=True):
        pluses = np.arange(count + 1)
        sums = np.add.outer(sums, (2 * pluses - count) * size).ravel()
        chances = np.multiply.outer(chances, _coin_flips(int(count))).ravel()
    return sums, chances


def _coin_flips(count: int) -> Array:
    """Chance of 0 to `count` heads."""
    logs = [
        math.lgamma(count + 1) - math.lgamma(heads + 1) - math.lgamma(count - heads + 1) - count * math.log(2)
        for heads in range(count + 1)
    ]
    return np.exp(logs)
