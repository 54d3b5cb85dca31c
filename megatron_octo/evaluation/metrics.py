"""What verdicts add up to: accuracy with its interval, a paired difference, pass@k. Pure functions of numbers.

Verdicts are (questions, samples) of 0 and 1. Samples of one question stand or fall together, so the bootstrap draws
questions and takes all samples of each (a cluster bootstrap; Miller, 2024, arXiv 2411.00640).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
import numpy.typing as npt

#: Enough for the third digit of an interval; the counts of 2,000 draws of 5,000 questions are 80 MB.
NUM_DRAWS = 2_000
LEVEL_PERCENT = 95

Verdicts = Sequence[Sequence[bool]]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its 95 % bootstrap interval over `n` questions."""

    mean: float
    low: float
    high: float
    n: int


def accuracy(verdicts: Verdicts, *, seed: int = 0) -> Interval:
    """Mean over questions of the share of right samples."""
    return _bootstrap(_by_question(verdicts), seed)


def paired_difference(before: Verdicts, after: Verdicts, *, seed: int = 0) -> Interval:
    """Gain in accuracy from one model to another on the same questions in the same order."""
    if len(before) != len(after):
        raise ValueError(
            f"{len(before)} questions before and {len(after)} after; a paired difference needs the same ones"
        )
    return _bootstrap(_by_question(after) - _by_question(before), seed)


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Chance that k of a question's samples, drawn without replacement, hold a right one (Chen et al., 2021, eq. 1)."""
    if not 0 <= num_correct <= num_samples or not 1 <= k <= num_samples:
        raise ValueError(
            f"pass@{k} of {num_correct} right among {num_samples} samples; need right and k at most samples"
        )
    return 1 - comb(num_samples - num_correct, k) / comb(num_samples, k)


def _by_question(verdicts: Verdicts) -> npt.NDArray[np.float64]:
    return np.array([sum(samples) / len(samples) for samples in verdicts])


def _bootstrap(values: npt.NDArray[np.float64], seed: int) -> Interval:
    size = len(values)
    counts = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=NUM_DRAWS)
    tail = (100 - LEVEL_PERCENT) / 2
    low, high = np.percentile(counts @ values / size, [tail, 100 - tail])
    return Interval(mean=float(values.mean()), low=float(low), high=float(high), n=size)
