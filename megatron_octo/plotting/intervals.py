"""95 % intervals of accuracies and gains over test questions and RL seeds.

Both are samples of what could have been: other questions, another seed. Questions are resampled with replacement (bootstrap).
All models answer the same questions, so a draw uses the same ones for all of them and differences are paired. To that comes
the noise between runs: a Student's t with the variance between seeds, because resampling five seeds would make them look
more alike than they are.

300 simulated studies per setting (200 questions; standard deviation between seeds 0.02 to 0.15; 2026-11-22): the intervals
held the true gain, and the true difference of two gains, in 94 to 97 % of the studies with three to ten seeds, and in 90 to
97 % with two.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from megatron_octo.plotting.results import Array

#: Enough for the third digit of an interval; 2,000 x 5,000 questions are 80 MB.
NUM_DRAWS = 2_000
LEVEL_PERCENT = 95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Correctness (0 to 1) of one model: `base` of shape (questions,), `after` of shape (seeds, questions)."""

    base: Array
    after: Array


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Accuracy after RL, its gain over the base, and by how much that gain exceeds the control's (None for the control)."""

    after: Interval
    gain: Interval
    over_control: Interval | None


def gains(models: Mapping[str, Answers], *, control: str, seed: int = 0) -> dict[str, Gain]:
    """Gains of all models over the same questions; without the control's answers there is nothing to compare with."""
    generator = np.random.default_rng(seed)
    questions = _weights(generator, len(next(iter(models.values())).base))
    drawn = {name: _resampled(answers, questions, generator) for name, answers in models.items()}
    measured = {name: (answers.after.mean(), answers.base.mean()) for name, answers in models.items()}

    def gain(name: str) -> tuple[float, Array]:
        (after, base), (after_draws, base_draws) = measured[name], drawn[name]
        return after - base, after_draws - base_draws

    def over_control(name: str) -> Interval | None:
        if name == control or control not in models:
            return None
        (ours, our_draws), (theirs, their_draws) = gain(name), gain(control)
        return _interval(ours - theirs, our_draws - their_draws)

    return {
        name: Gain(
            after=_interval(measured[name][0], drawn[name][0]),
            gain=_interval(*gain(name)),
            over_control=over_control(name),
        )
        for name in models
    }


def _resampled(answers: Answers, questions: Array, generator: np.random.Generator) -> tuple[Array, Array]:
    """Accuracy after RL and of the base in every draw, each (draws,)."""
    after = questions @ answers.after.mean(axis=0) + _seed_noise(answers.after, generator)
    return after, questions @ answers.base


def _seed_noise(after: Array, generator: np.random.Generator) -> Array:
    """How far the mean over other seeds might lie from this one: (draws,)."""
    num_seeds, num_questions = after.shape
    if num_seeds == 1:
        return np.zeros(NUM_DRAWS)
    # Equally good runs also differ by their luck with single questions, which resampled questions account for already.
    luck = after.var(axis=0, ddof=1).mean() / num_questions
    between = max(0.0, after.mean(axis=1).var(ddof=1) - luck)
    return generator.standard_t(num_seeds - 1, size=NUM_DRAWS) * math.sqrt(between / num_seeds)


def _weights(generator: np.random.Generator, size: int) -> Array:
    """How often each of `size` things is drawn, as shares: (draws, size), rows sum to 1."""
    return generator.multinomial(size, np.full(size, 1 / size), size=NUM_DRAWS) / size


def _interval(mean: float, draws: Array) -> Interval:
    tail = (100 - LEVEL_PERCENT) / 2
    # Sums in another order differ by 1e-16, which must not look like an interval beside zero.
    values = np.round([mean, *np.percentile(draws, [tail, 100 - tail])], 12) + 0.0
    return Interval(mean=float(values[0]), low=float(values[1]), high=float(values[2]))
