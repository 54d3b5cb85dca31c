"""The words at the head of the report."""

from pathlib import Path

import pytest

from megatron_octo.errors import ArtifactError
from megatron_octo.plotting import findings, results
from megatron_octo.plotting.config import Report
from megatron_octo.plotting.findings import Outcome, answer, points
from megatron_octo.plotting.intervals import Gain, Interval
from megatron_octo.plotting.results import Evaluated, ModelResults


def outcome(name: str, gain: float, over_control: tuple[float, float, float] | None, seeds: int = 3) -> Outcome:
    interval = Interval(mean=gain, low=gain - 0.01, high=gain + 0.01)
    difference = None
    if over_control:
        low, mean, high = over_control
        difference = Interval(mean=mean, low=low, high=high)
    return Outcome(
        name=name, base=interval, gain=Gain(after=interval, gain=interval, over_control=difference),
        accuracy_by_seed=(0.5,) * seeds, num_questions=500, response_length=(10, 20), truncated=(0, 0), boxed=(1, 1),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("share", "signed", "text"),
    [(0.1234, False, "12.3"), (0.1234, True, "+12.3"), (-0.031, True, "−3.1"), (-0.0001, True, "0.0")],
)
def test_points(share: float, signed: bool, text: str) -> None:
    assert points(share, signed=signed) == text


def test_the_answer_says_more_less_and_cannot_tell() -> None:
    found = [
        outcome("stable", 0.05, None),
        outcome("long", 0.4, (0.3, 0.35, 0.4)),
        outcome("short", 0.01, (-0.06, -0.04, -0.02)),
        outcome("hybrid", 0.06, (-0.02, 0.01, 0.04)),
    ]
    text = answer(found, control="stable")
    assert "On 500 held-out questions reinforcement learning changed accuracy by +5.0 points for stable" in text
    assert "long gains more (+35.0 points, +30.0 to +40.0)" in text
    assert "short gains less (−4.0 points, −6.0 to −2.0)" in text
    assert "for hybrid these data cannot tell (+1.0 points, −2.0 to +4.0)" in text
    assert "over 3 RL seeds" in text


def test_one_seed_is_confessed() -> None:
    assert "not the noise between RL runs" in answer([outcome("stable", 0.05, None, seeds=1)], control="stable")


def test_outcomes_are_the_numbers_of_the_files(study: tuple[Report, Path]) -> None:
    found = {each.name: each for each in findings.outcomes(results.read(study[0]))}
    assert found["long"].base.mean == 0.3
    assert found["long"].accuracy_by_seed == (0.7, 0.7)
    assert found["long"].response_length == (60, 110)
    assert found["long"].boxed == (0.875, 0.875)
    gain = found["long"].gain
    assert gain is not None
    assert gain.over_control is not None
    assert gain.gain.mean == pytest.approx(0.4)
    assert gain.over_control.mean == pytest.approx(0.35)


def test_models_must_answer_the_same_questions() -> None:
    def evaluated(question: str) -> Evaluated:
        scores = {"accuracy": {"mean": 1.0, "low": 1.0, "high": 1.0}, "response_length": 1, "truncated": 0, "boxed": 1}
        return Evaluated(scores=scores, samples=({"question": question, "correct": True},))

    def model(name: str, question: str) -> ModelResults:
        return ModelResults(name=name, training=None, base=evaluated(question), rl=(), after=())

    with pytest.raises(ArtifactError, match="long and one of stable asked different questions"):
        findings.outcomes([model("stable", "1 + 1"), model("long", "2 + 2")])
