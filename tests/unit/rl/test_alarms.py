"""Alarms on made-up runs: each rings once, when it should, and says where to restart."""

from collections.abc import Iterable

import pytest

from megatron_octo.rl.alarms import Alarm, Kind, check
from megatron_octo.rl.config import Alarms
from megatron_octo.rl.metrics import Row

LIMITS = Alarms(truncated_share=0.5, length_growth=3.0, entropy_floor=0.02, accuracy_drop=0.1, window_steps=4)
SAVED = range(0, 1000, 5)
#: Steps 1 to 20 go well.
WELL = 20


def training(**metric: Iterable[float | None]) -> list[Row]:
    """Rows of a run that is well in everything but `metric`, from step 1 on."""
    (name, values), *_ = metric.items()
    well = {"accuracy": 0.5, "response_length": 300.0, "truncated": 0.01, "entropy": 0.4}
    return [{"step": step, "prompts": 1000, **well, name: value} for step, value in enumerate(values, start=1)]


def evaluation(step: int, **right: float) -> list[Row]:
    return [
        {"step": step, f"eval/{name}/accuracy": value, f"eval/{name}/questions": 500} for name, value in right.items()
    ]


def rung(rows: list[Row], limits: Alarms = LIMITS) -> list[tuple[Kind, int, int | None]]:
    return [(alarm.kind, alarm.step, alarm.restart_from) for alarm in check(rows, limits, saved=SAVED)]


BROKEN = [
    # The mean of four steps reaches the limit with the second bad one.
    pytest.param(training(truncated=[0.0] * WELL + [1.0] * 9), Kind.TRUNCATION, 22, 15, id="truncated"),
    # ... and 900 tokens, three times 300, with the third: (300 + 3 x 1200) / 4.
    pytest.param(training(response_length=[300.0] * WELL + [1200.0] * 9), Kind.LENGTH, 23, 15, id="length"),
    pytest.param(training(entropy=[0.4] * WELL + [0.001] * 9), Kind.ENTROPY, 21, 20, id="entropy"),
    # 10 % of 0.5 is lost when the mean is 0.45 or less: (3 x 0.5 + 0.25) / 4 = 0.4375.
    pytest.param(training(accuracy=[0.5] * WELL + [0.25] * 9), Kind.ACCURACY, 21, 15, id="accuracy"),
]


@pytest.mark.parametrize(("rows", "kind", "step", "restart"), BROKEN)
def test_an_alarm_rings_once_and_says_the_step_before_the_trouble(
    rows: list[Row], kind: Kind, step: int, restart: int
) -> None:
    assert rung(rows) == [(kind, step, restart)]


@pytest.mark.parametrize(("rows", "kind", "step", "restart"), BROKEN)
def test_nothing_rings_before_or_when_switched_off(rows: list[Row], kind: Kind, step: int, restart: int) -> None:
    assert rung(rows[: step - 1]) == []
    off = Alarms(truncated_share=None, length_growth=None, entropy_floor=None, accuracy_drop=None, window_steps=4)
    assert rung(rows, off) == []


def test_a_run_that_is_well_is_silent() -> None:
    assert rung(training(accuracy=[step / 100 for step in range(60)])) == []
    assert rung([]) == []


def test_an_alarm_rings_again_after_its_end() -> None:
    shares = [0.0] * 8 + [1.0] * 4 + [0.0] * 8 + [1.0] * 4
    assert [(kind, step) for kind, step, _ in rung(training(truncated=shares))] == [
        (Kind.TRUNCATION, 10),
        (Kind.TRUNCATION, 22),
    ]


def test_a_value_around_the_limit_rings_once() -> None:
    assert len(rung(training(truncated=[0.0] * 8 + [0.6, 0.5, 0.4] * 6))) == 1


def test_a_slow_decline_restarts_from_before_it_began_not_from_before_it_was_noticed() -> None:
    """Accuracy falls by 0.005 a step from step 41 on: the mean of steps 48 to 51 is 0.4525, of 49 to 52 it is 0.4475."""
    values = [0.5] * 40 + [0.5 - 0.005 * step for step in range(1, 41)]
    ((kind, step, restart),) = rung(training(accuracy=values))
    assert (kind, step, restart) == (Kind.ACCURACY, 52, 40)


def test_length_may_grow_where_accuracy_rises() -> None:
    rows = training(response_length=[300.0] * WELL + [1200.0] * 9)
    learning: list[Row] = [{**row, "accuracy": 0.1 if (row["step"] or 0) <= WELL else 0.4} for row in rows]
    assert rung(learning) == []


def test_trouble_from_the_start_has_nowhere_to_restart() -> None:
    assert rung(training(truncated=[1.0] * 10)) == [(Kind.TRUNCATION, 4, None)]


def test_a_checkpoint_that_is_gone_is_not_offered() -> None:
    rows = training(truncated=[0.0] * WELL + [1.0] * 9)
    (alarm,) = check(rows, LIMITS, saved=[20, 25])
    assert alarm == Alarm(
        kind=Kind.TRUNCATION,
        step=22,
        seen="50% of the responses of the last 4 steps reached the cap (limit 50%)",
        restart_from=None,
    )


def test_metrics_that_were_not_logged_ring_nothing() -> None:
    assert rung(training(entropy=[None] * 30)) == []


def test_evaluations_are_judged_by_all_their_questions_and_stand_between_other_rows() -> None:
    """Half of the questions halve their accuracy: 0.5 to 0.375."""
    rows = training(accuracy=[0.5] * 40)
    for step in range(0, 40, 8):
        rows += evaluation(step, math=0.5, gsm=0.5 if step < 24 else 0.25)
    rows.sort(key=lambda row: row["step"] or 0)
    assert rung(rows) == [(Kind.EVALUATION, 24, 15)]


def test_an_evaluation_that_is_not_whole_yet_is_not_judged() -> None:
    rows = [*evaluation(0, math=0.2, gsm=0.8), *evaluation(8, math=0.2)]
    assert rung(rows) == []


def test_chance_rings_nothing() -> None:
    """A base model at 2 of 500 and then at 0 has lost everything it had, and nothing that can be seen."""
    assert rung([*evaluation(0, math=0.004), *evaluation(8, math=0.0)]) == []
    # A tenth of 500 answers is one standard error and a half, a tenth of 5,000 nearly five.
    assert rung([*evaluation(0, a=0.5), *evaluation(8, a=0.44)]) == []
    many = [f"set{number}" for number in range(10)]
    fallen = [*evaluation(0, **dict.fromkeys(many, 0.5)), *evaluation(8, **dict.fromkeys(many, 0.44))]
    assert rung(fallen) == [(Kind.EVALUATION, 8, 0)]
