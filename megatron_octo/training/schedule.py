"""Learning rate as a pure function of this phase's tokens. Standard library only, so that `show` can print it.

The values are those of Megatron's `OptimizerParamScheduler` (compared in tests/unit/training/test_schedule.py), which counts
samples where we count tokens: the ratios are the same.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from megatron_octo.training.config import LearningRateStyle, Schedule

#: Share of (peak - min) left after a share of the decay: 1 at its start, 0 at its end.
_DECAYS: dict[LearningRateStyle, Callable[[float], float]] = {
    LearningRateStyle.COSINE: lambda done: 0.5 * (math.cos(math.pi * done) + 1.0),
    LearningRateStyle.LINEAR: lambda done: 1.0 - done,
    LearningRateStyle.MINUS_SQRT: lambda done: 1.0 - math.sqrt(done),
}


@dataclass(frozen=True, kw_only=True)
class Knot:
    """A point of the schedule worth printing."""

    tokens: int
    learning_rate: float


def learning_rate(schedule: Schedule, tokens: int, train_tokens: int) -> float:
    """The learning rate after `tokens` of a phase of `train_tokens`; beyond the end it stays where the decay ends."""
    if schedule.warmup_tokens and tokens <= schedule.warmup_tokens:
        return schedule.peak_lr * tokens / schedule.warmup_tokens
    if schedule.style is LearningRateStyle.CONSTANT:
        return schedule.peak_lr
    done = min(1.0, (tokens - schedule.warmup_tokens) / (train_tokens - schedule.warmup_tokens))
    return schedule.min_lr + _DECAYS[schedule.style](done) * (schedule.peak_lr - schedule.min_lr)


def knots(schedule: Schedule, train_tokens: int) -> list[Knot]:
    """Start, end of warmup and end; for a decay also its quarters."""
    return [
        Knot(tokens=tokens, learning_rate=learning_rate(schedule, tokens, train_tokens))
        for tokens in sorted(set(_knot_tokens(schedule, train_tokens)))
    ]


def _knot_tokens(schedule: Schedule, train_tokens: int) -> Iterable[int]:
    yield from (0, schedule.warmup_tokens, train_tokens)
    if schedule.style is not LearningRateStyle.CONSTANT:
        decay_tokens = train_tokens - schedule.warmup_tokens
        yield from (schedule.warmup_tokens + decay_tokens * quarter // 4 for quarter in (1, 2, 3))
