"""The learning rate of a phase: what it is, and its value as a pure function of this phase's tokens. Standard library only, so that `show` can print it.

The values are those of Megatron's `OptimizerParamScheduler` (compared in tests/unit/training/test_schedule.py), which counts
samples where we count tokens: the ratios are the same.
"""

import enum
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from megatron_octo.errors import ConfigError


class LearningRateStyle(enum.Enum):
    """Shape of the learning rate between the end of warmup and the end of the phase."""

    CONSTANT = "constant"
    COSINE = "cosine"
    LINEAR = "linear"
    #: 1 - sqrt, the decay of WSD papers; Megatron calls it minus_sqrt.
    MINUS_SQRT = "minus_sqrt"
    #: Halves again and again: 2 x 0.5^done - 1, as Megatron's WSD has it.
    EXPONENTIAL = "exponential"
    #: Constant, then `wsd_decay_style` over the last `wsd_decay_tokens`.
    WSD = "WSD"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rate of one phase, counted in this phase's own tokens."""

    style: LearningRateStyle
    peak_lr: float
    #: Where the decay ends; equal to `peak_lr` for a constant phase.
    min_lr: float
    #: The paper warms up nowhere ([P-§2], tables 2-5).
    warmup_tokens: int = 0
    #: With style WSD: tokens of the decay at the end of the phase, and its shape.
    wsd_decay_tokens: int | None = None
    wsd_decay_style: LearningRateStyle | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.min_lr <= self.peak_lr or self.peak_lr <= 0:
            raise ConfigError(
                f"min_lr {self.min_lr:g} and peak_lr {self.peak_lr:g}: need 0 <= min_lr <= peak_lr, peak_lr > 0"
            )
        if self.style is LearningRateStyle.CONSTANT and self.min_lr != self.peak_lr:
            raise ConfigError(
                f"a constant schedule has one learning rate, not {self.peak_lr:g} and {self.min_lr:g}; set both the same"
            )
        if (self.style is LearningRateStyle.WSD) != (
            self.wsd_decay_tokens is not None and self.wsd_decay_style is not None
        ):
            raise ConfigError(
                f"style {self.style.value} with wsd_decay_tokens {self.wsd_decay_tokens} and wsd_decay_style "
                f"{self.wsd_decay_style and self.wsd_decay_style.value}; WSD needs both, the other styles neither"
            )
        if self.wsd_decay_style in (LearningRateStyle.CONSTANT, LearningRateStyle.WSD):
            raise ConfigError(
                f"wsd_decay_style {self.wsd_decay_style.value} does not decay; allowed: cosine, linear, minus_sqrt, exponential"
            )


#: Share of (peak - min) left after a share of the decay: 1 at its start, 0 at its end.
_DECAYS: dict[LearningRateStyle, Callable[[float], float]] = {
    LearningRateStyle.COSINE: lambda done: 0.5 * (math.cos(math.pi * done) + 1.0),
    LearningRateStyle.LINEAR: lambda done: 1.0 - done,
    LearningRateStyle.MINUS_SQRT: lambda done: 1.0 - math.sqrt(done),
    LearningRateStyle.EXPONENTIAL: lambda done: 2.0 * math.pow(0.5, done) - 1.0,
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
    style, start = _decay(schedule, train_tokens)
    if style is LearningRateStyle.CONSTANT or tokens <= start:
        return schedule.peak_lr
    done = min(1.0, (tokens - start) / (train_tokens - start))
    return schedule.min_lr + _DECAYS[style](done) * (schedule.peak_lr - schedule.min_lr)


def knots(schedule: Schedule, train_tokens: int) -> list[Knot]:
    """Start, end of warmup and end; for a decay also where it starts and its quarters."""
    return [
        Knot(tokens=tokens, learning_rate=learning_rate(schedule, tokens, train_tokens))
        for tokens in sorted(set(_knot_tokens(schedule, train_tokens)))
    ]


def _decay(schedule: Schedule, train_tokens: int) -> tuple[LearningRateStyle, int]:
    """Shape of the decay and the tokens after which it starts: at the end of warmup, or later with style WSD."""
    if schedule.wsd_decay_style is None or schedule.wsd_decay_tokens is None:
        return schedule.style, schedule.warmup_tokens
    return schedule.wsd_decay_style, train_tokens - schedule.wsd_decay_tokens


def _knot_tokens(schedule: Schedule, train_tokens: int) -> Iterable[int]:
    yield from (0, schedule.warmup_tokens, train_tokens)
    style, start = _decay(schedule, train_tokens)
    if style is not LearningRateStyle.CONSTANT:
        yield from (start + (train_tokens - start) * quarter // 4 for quarter in range(4))
