"""Which steps are left out, and where to look first."""

import math

import pytest

from megatron_octo.training.anomalies import reason, remember, suspects
from megatron_octo.training.config import Anomalies

RULES = Anomalies(spike_factor=10.0, window=4)


@pytest.mark.parametrize(
    ("loss", "grad_norm", "recent", "expected"),
    [
        (2.0, 1.0, [1.0, 1.0], None),
        (math.nan, 1.0, [], "the loss is nan"),
        (math.inf, 1.0, [], "the loss is inf"),
        (2.0, math.nan, [], "the gradient norm is nan"),
        (2.0, math.inf, [], "the gradient norm is inf"),
        # The median of 1, 2 and 30 is 2: one spike that passed does not hide the next.
        (2.0, 20.0, [1.0, 30.0, 2.0], None),
        (2.0, 20.1, [1.0, 30.0, 2.0], "the gradient norm is 20.1, more than 10 times the median 2 of the last 3"),
        # Half of the window must be there.
        (2.0, 99.0, [1.0], None),
        (2.0, 99.0, [1.0, 1.0], "the gradient norm is 99, more than 10 times the median 1 of the last 2"),
    ],
)
def test_why_a_step_is_left_out(loss: float, grad_norm: float, recent: list[float], expected: str | None) -> None:
    assert reason(RULES, loss=loss, grad_norm=grad_norm, recent=recent) == expected


def test_without_a_factor_any_finite_norm_passes() -> None:
    rules = Anomalies(spike_factor=None, window=4)
    assert reason(rules, loss=2.0, grad_norm=1e30, recent=[1.0] * 4) is None
    assert reason(rules, loss=2.0, grad_norm=math.inf, recent=[1.0] * 4) == "the gradient norm is inf"


def test_norms_beyond_the_window_are_forgotten() -> None:
    recent: list[float] = []
    for norm in (1.0, 2.0, 3.0, 4.0):
        remember(recent, norm, window=3)
    assert recent == [2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([1.0, 3.0, 2.0], [1, 2, 0]),
        ([float(loss) for loss in range(8)], [7, 6, 5, 4, 3]),
        # Without a finite loss: those alone.
        ([9.0, math.nan, 1.0, math.inf], [1, 3]),
    ],
)
def test_sequences_to_look_at_first(losses: list[float], expected: list[int]) -> None:
    assert suspects(losses) == expected
