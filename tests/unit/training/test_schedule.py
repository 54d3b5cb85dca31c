"""The learning rate against Megatron's own scheduler, and its knots as literals."""

from typing import Any

import pytest

from megatron_octo.config import override
from megatron_octo.errors import ConfigError
from megatron_octo.training.schedule import Knot, LearningRateStyle, Schedule, knots, learning_rate

SEQ_LENGTH = 128
BATCH = 6
STEPS = 500


DECAYS = [
    LearningRateStyle.COSINE,
    LearningRateStyle.LINEAR,
    LearningRateStyle.MINUS_SQRT,
    LearningRateStyle.EXPONENTIAL,
]
#: Megatron knows these two as the tail of a WSD schedule only: as a style of ours, the tail is the whole phase after warmup.
TAILS_IN_MEGATRON = (LearningRateStyle.MINUS_SQRT, LearningRateStyle.EXPONENTIAL)


def megatron_scheduler(schedule: Schedule, **changes: Any) -> Any:
    """Megatron's scheduler of the same phase; it counts samples."""
    torch = pytest.importorskip("torch")
    scheduler_module = pytest.importorskip("megatron.core.optimizer_param_scheduler")
    samples = STEPS * BATCH
    warmup_samples = schedule.warmup_tokens // SEQ_LENGTH
    style, tail, tail_samples = schedule.style, schedule.wsd_decay_style, (schedule.wsd_decay_tokens or 0) // SEQ_LENGTH
    if style in TAILS_IN_MEGATRON:
        style, tail, tail_samples = LearningRateStyle.WSD, style, samples - warmup_samples
    settings = {
        "init_lr": 0.0,
        "max_lr": schedule.peak_lr,
        "min_lr": schedule.min_lr,
        "lr_warmup_steps": warmup_samples,
        "lr_decay_steps": samples,
        "lr_decay_style": style.value,
        "start_wd": 0.1,
        "end_wd": 0.1,
        "wd_incr_steps": samples,
        "wd_incr_style": "constant",
        "wsd_decay_steps": tail_samples or None,
        "lr_wsd_decay_style": tail.value if tail else None,
    }
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.0)
    return scheduler_module.OptimizerParamScheduler(optimizer, **settings | changes)


def megatron_rates(schedule: Schedule) -> list[float]:
    """The rates Megatron sets before each step and after the last."""
    scheduler = megatron_scheduler(schedule)
    rates = []
    for _ in range(STEPS + 3):
        rates.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.step(BATCH)
    return rates


def our_rates(schedule: Schedule) -> list[float]:
    step_tokens = BATCH * SEQ_LENGTH
    return [learning_rate(schedule, step * step_tokens, STEPS * step_tokens) for step in range(STEPS + 3)]


def warmed_up(style: LearningRateStyle, warmup_steps: int, **more: Any) -> Schedule:
    min_lr = 3e-5 if style is LearningRateStyle.CONSTANT else 3e-6
    return Schedule(style=style, peak_lr=3e-5, min_lr=min_lr, warmup_tokens=warmup_steps * BATCH * SEQ_LENGTH, **more)


# Exact: the same divisions of the same ratios in the same order, up to a last bit where Megatron multiplies first.
LAST_BIT = 1e-15


@pytest.mark.parametrize("warmup_steps", [0, 1, 50])
@pytest.mark.parametrize("style", [LearningRateStyle.CONSTANT, *DECAYS])
def test_equals_megatron_at_every_step(style: LearningRateStyle, warmup_steps: int) -> None:
    schedule = warmed_up(style, warmup_steps)
    assert our_rates(schedule) == pytest.approx(megatron_rates(schedule), rel=LAST_BIT, abs=0)


@pytest.mark.parametrize("decay_steps", [1, 100, STEPS - 50])
@pytest.mark.parametrize("warmup_steps", [0, 1, 50])
@pytest.mark.parametrize("style", DECAYS)
def test_wsd_equals_megatron_at_every_step(style: LearningRateStyle, warmup_steps: int, decay_steps: int) -> None:
    decay_tokens = decay_steps * BATCH * SEQ_LENGTH
    schedule = warmed_up(LearningRateStyle.WSD, warmup_steps, wsd_decay_tokens=decay_tokens, wsd_decay_style=style)
    assert our_rates(schedule) == pytest.approx(megatron_rates(schedule), rel=LAST_BIT, abs=0)


@pytest.mark.parametrize("style", [None, "minus_squrt"])
def test_megatron_fails_over_a_wrong_wsd_style_only_when_the_decay_starts(style: str | None) -> None:
    """The failure our config stands before: hours into a run. Once Megatron refuses it at once, this test says so."""
    schedule = warmed_up(LearningRateStyle.WSD, 0, wsd_decay_tokens=1_000, wsd_decay_style=LearningRateStyle.LINEAR)
    scheduler = megatron_scheduler(schedule, wsd_decay_steps=100, lr_wsd_decay_style=style)
    scheduler.step(STEPS * BATCH - 100)
    with pytest.raises(AssertionError):
        scheduler.step(1)


@pytest.mark.parametrize("style", ["none", "minus_squrt", "constant", "WSD"])
def test_a_wrong_wsd_style_is_refused_while_parsing(style: str) -> None:
    schedule = warmed_up(LearningRateStyle.WSD, 0, wsd_decay_tokens=1_000, wsd_decay_style=LearningRateStyle.LINEAR)
    with pytest.raises(ConfigError, match="wsd_decay_style"):
        override(schedule, [f"wsd_decay_style={style}"])


@pytest.mark.parametrize(
    ("style", "rates"),
    [
        (LearningRateStyle.COSINE, [2e-5, 1.1e-5, 2e-6]),
        (LearningRateStyle.LINEAR, [2e-5, 1.1e-5, 2e-6]),
        (LearningRateStyle.MINUS_SQRT, [2e-5, 2e-6 + 1.8e-5 * (1 - 0.5**0.5), 2e-6]),
        (LearningRateStyle.EXPONENTIAL, [2e-5, 2e-6 + 1.8e-5 * (2 * 0.5**0.5 - 1), 2e-6]),
    ],
)
def test_start_middle_and_end(style: LearningRateStyle, rates: list[float]) -> None:
    schedule = Schedule(style=style, peak_lr=2e-5, min_lr=2e-6)
    assert [learning_rate(schedule, tokens, 1000) for tokens in (0, 500, 1000)] == pytest.approx(rates)


def test_stays_at_the_floor_beyond_the_end() -> None:
    assert learning_rate(Schedule(style=LearningRateStyle.LINEAR, peak_lr=1.0, min_lr=0.25), 1_500, 1_000) == 0.25


def test_warmup_rises_from_zero() -> None:
    schedule = Schedule(style=LearningRateStyle.CONSTANT, peak_lr=1e-3, min_lr=1e-3, warmup_tokens=100)
    rates = [learning_rate(schedule, tokens, 1000) for tokens in (0, 50, 100, 1000)]
    assert rates == pytest.approx([0.0, 5e-4, 1e-3, 1e-3])


def test_knots_of_a_decay_with_warmup() -> None:
    schedule = Schedule(style=LearningRateStyle.LINEAR, peak_lr=1.0, min_lr=0.0, warmup_tokens=200)
    assert knots(schedule, 1000) == [
        Knot(tokens=0, learning_rate=0.0),
        Knot(tokens=200, learning_rate=1.0),
        Knot(tokens=400, learning_rate=0.75),
        Knot(tokens=600, learning_rate=0.5),
        Knot(tokens=800, learning_rate=0.25),
        Knot(tokens=1000, learning_rate=0.0),
    ]


def test_knots_of_a_constant_phase_are_its_ends() -> None:
    schedule = Schedule(style=LearningRateStyle.CONSTANT, peak_lr=2e-5, min_lr=2e-5)
    assert [knot.tokens for knot in knots(schedule, 1000)] == [0, 1000]


def test_knots_of_wsd_name_the_start_of_the_decay() -> None:
    schedule = Schedule(
        style=LearningRateStyle.WSD, peak_lr=1.0, min_lr=0.0, warmup_tokens=100, wsd_decay_tokens=400,
        wsd_decay_style=LearningRateStyle.LINEAR,
    )  # fmt: skip
    assert [(knot.tokens, knot.learning_rate) for knot in knots(schedule, 1000)] == [
        (0, 0.0), (100, 1.0), (600, 1.0), (700, 0.75), (800, 0.5), (900, 0.25), (1000, 0.0),
    ]  # fmt: skip
