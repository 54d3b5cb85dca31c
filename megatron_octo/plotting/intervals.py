"""95 % intervals of gains, bootstrapped over RL seeds and test questions together.

Both are samples of what could have been: another seed, another question. Each draw resamples questions and, per model,
seeds, both with replacement (the pigeonhole bootstrap of Owen, 2007, arXiv 0712.1111, whose intervals are on the wide side).
All models answer the same questions, so a draw uses the same questions for all of them and differences are paired.
"""

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
    seeds = _weights(generator, len(answers.after))
    after = ((seeds @ answers.after) * questions).sum(axis=1)
    return after, questions @ answers.base


def _weights(generator: np.random.Generator, size: int) -> Array:
    """How often each of `size` things is drawn, as shares: (draws, size), rows sum to 1."""
    return generator.multinomial(size, np.full(size, 1 / size), size=NUM_DRAWS) / size


def _interval(mean: float, draws: Array) -> Interval:
    tail = (100 - LEVEL_PERCENT) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    return Interval(mean=float(mean), low=float(low), high=float(high))
