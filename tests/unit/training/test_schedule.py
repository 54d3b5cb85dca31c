"""The learning rate against Megatron's own scheduler, and its knots as literals."""

import pytest

from megatron_octo.training.config import LearningRateStyle, Schedule
from megatron_octo.training.schedule import Knot, knots, learning_rate

SEQ_LENGTH = 128
BATCH = 6
STEPS = 500


def megatron_rates(schedule: Schedule) -> list[float]:
    """The rates Megatron's scheduler, which counts samples, sets before each step and after the last."""
    torch = pytest.importorskip("torch")
    scheduler_module = pytest.importorskip("megatron.core.optimizer_param_scheduler")
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.0)
    samples = STEPS * BATCH
    warmup_samples = schedule.warmup_tokens // SEQ_LENGTH
    wsd = schedule.style is LearningRateStyle.MINUS_SQRT
    scheduler = scheduler_module.OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=schedule.peak_lr,
        min_lr=schedule.min_lr,
        lr_warmup_steps=warmup_samples,
        lr_decay_steps=samples,
        lr_decay_style="WSD" if wsd else schedule.style.value,
        start_wd=0.1,
        end_wd=0.1,
        wd_incr_steps=samples,
        wd_incr_style="constant",
        # Megatron knows minus_sqrt as the tail of a WSD schedule: here the tail is the whole phase after warmup.
        wsd_decay_steps=samples - warmup_samples if wsd else None,
        lr_wsd_decay_style="minus_sqrt" if wsd else None,
    )
    rates = []
    for _ in range(STEPS + 3):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step(BATCH)
    return rates


@pytest.mark.parametrize("warmup_steps", [0, 1, 50])
@pytest.mark.parametrize("style", list(LearningRateStyle))
def test_equals_megatron_at_every_step(style: LearningRateStyle, warmup_steps: int) -> None:
    schedule = Schedule(
        style=style,
        peak_lr=3e-5,
        min_lr=3e-5 if style is LearningRateStyle.CONSTANT else 3e-6,
        warmup_tokens=warmup_steps * BATCH * SEQ_LENGTH,
    )
    ours = [learning_rate(schedule, step * BATCH * SEQ_LENGTH, STEPS * BATCH * SEQ_LENGTH) for step in range(STEPS + 3)]
    # Exact: the same divisions of the same ratios in the same order, up to a last bit where Megatron multiplies first.
    assert ours == pytest.approx(megatron_rates(schedule), rel=1e-15, abs=0)


@pytest.mark.parametrize(
    ("style", "rates"),
    [
        (LearningRateStyle.COSINE, [2e-5, 1.1e-5, 2e-6]),
        (LearningRateStyle.LINEAR, [2e-5, 1.1e-5, 2e-6]),
        (LearningRateStyle.MINUS_SQRT, [2e-5, 2e-6 + 1.8e-5 * (1 - 0.5**0.5), 2e-6]),
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
