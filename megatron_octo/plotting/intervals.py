"""95 % intervals of accuracies and gains over test questions and RL seeds.

Both are samples of what could have been: other questions, another seed. All models answer the same questions, so differences are
taken question by question, and their intervals are those of megatron_octo/intervals.py. To that comes the noise between runs: a
Student's t with the variance between seeds. The two add up as squares on either side (Zou and Donner, 2008).

1,000 simulated studies per setting (40 or 200 questions, accuracies 0.02 to 0.7, standard deviation between seeds 0.02 or 0.1;
2026-11-23): with one seed, three or ten the intervals held the true accuracy and gain, and the true difference of two gains, in 92
to 98 % of the studies. With two it was 92 to 99 % where seeds differ by 0.02 and 84 to 98 % at 0.1: two seeds hardly tell.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from megatron_octo import intervals
from megatron_octo.plotting.results import Array


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


def gains(models: Mapping[str, Answers], *, control: str) -> dict[str, Gain]:
    """Gains of all models over the same questions; without the control's answers there is nothing to compare with."""
    gained = {name: answers.after.mean(axis=0) - answers.base for name, answers in models.items()}
    noise = {name: _seed_noise(answers.after) for name, answers in models.items()}

    def over_control(name: str) -> Interval | None:
        if name == control or control not in models:
            return None
        return _gain_interval(gained[name] - gained[control], math.hypot(noise[name], noise[control]), limit=2.0)

    return {
        name: Gain(
            after=_accuracy_interval(answers.after, noise[name]),
            gain=_gain_interval(gained[name], noise[name], limit=1.0),
            over_control=over_control(name),
        )
        for name, answers in models.items()
    }


def _seed_noise(after: Array) -> float:
    """How far the mean over other seeds may lie from this one, to either side; 0 where one seed tells nothing of it."""
    num_seeds, num_questions = after.shape
    if num_seeds == 1:
        return 0.0
    # Equally good runs also differ by their luck with single questions, which the questions' interval accounts for already.
    luck = after.var(axis=0, ddof=1).mean() / num_questions
    between = max(0.0, after.mean(axis=1).var(ddof=1) - luck)
    return intervals.student(num_seeds - 1) * math.sqrt(between / num_seeds)


def _accuracy_interval(after: Array, noise: float) -> Interval:
    by_question = after.mean(axis=0)
    low, high = intervals.of_mean(by_question, samples_per_question=len(after))
    return _interval(float(by_question.mean()), low, high, noise, least=0.0, most=1.0)


def _gain_interval(gained: Array, noise: float, *, limit: float) -> Interval:
    low, high = intervals.of_gain(gained)
    return _interval(float(gained.mean()), low, high, noise, least=-limit, most=limit)


def _interval(mean: float, low: float, high: float, noise: float, *, least: float, most: float) -> Interval:
    """Both sides widened by the noise between seeds."""
    low, high = mean - math.hypot(mean - low, noise), mean + math.hypot(high - mean, noise)
    # Sums in another order differ by 1e-16, which must not look like an interval beside zero.
    values = (round(value, 12) + 0.0 for value in (mean, max(low, least), min(high, most)))
    return Interval(**dict(zip(("mean", "low", "high"), values, strict=True)))
