"""The words at the head of the report."""

from pathlib import Path

import pytest

from megatron_octo.errors import ArtifactError
from megatron_octo.plotting import findings, results
from megatron_octo.plotting.config import Report
from megatron_octo.plotting.findings import Outcome, answer, points, warning
from megatron_octo.plotting.intervals import Gain, Interval
from megatron_octo.plotting.results import Evaluated, ModelResults


def outcome(
    name: str, gain: float, over_control: tuple[float, float, float] | None, seeds: int = 3, questions: int = 500
) -> Outcome:
    interval = Interval(mean=gain, low=gain - 0.01, high=gain + 0.01)
    difference = None
    if over_control:
        low, mean, high = over_control
        difference = Interval(mean=mean, low=low, high=high)
    return Outcome(
        name=name, benchmark="GSM8K", base=interval, gain=Gain(after=interval, gain=interval, over_control=difference),
        accuracy_by_seed=(0.5,) * seeds, num_questions=questions, response_length=(10, 20), truncated=(0, 0),
        answered=(1, 1), num_shots=(8, 0),
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
    assert "On the 500 questions of GSM8K reinforcement learning changed accuracy by +5.0 points for stable" in text
    assert "long gains more (+35.0 points, +30.0 to +40.0)" in text
    assert "short gains less (−4.0 points, −6.0 to −2.0)" in text
    assert "for hybrid these data cannot tell (+1.0 points, −2.0 to +4.0)" in text
    assert "over 3 RL seeds" in text


def test_one_seed_is_confessed() -> None:
    assert "not the noise between RL runs" in answer([outcome("stable", 0.05, None, seeds=1)], control="stable")


@pytest.mark.parametrize(("questions", "warns"), [(99, True), (100, False)])
def test_few_questions_are_warned_of(questions: int, warns: bool) -> None:
    found = [
        outcome("stable", 0.05, None, questions=questions),
        outcome("long", 0.4, (0.3, 0.35, 0.4), questions=questions),
    ]
    text = warning(found)
    assert (text is not None) == warns
    assert not warns or text == (
        "GSM8K has only 99 questions: accuracies on it are known to within ± 1.0 points. "
        "Read the intervals, not the means."
    )


def test_outcomes_are_the_numbers_of_the_files(study: tuple[Report, Path]) -> None:
    found = {each.name: each for each in findings.outcomes(results.read(study[0]), "gsm8k")}
    assert found["long"].benchmark == "GSM8K"
    assert found["long"].base.mean == 0.3
    assert found["long"].accuracy_by_seed == (0.7, 0.7)
    assert found["long"].response_length == (60, 110)
    assert found["long"].answered == (0.875, 0.875)
    assert found["long"].num_shots == (8, 0)
    gain = found["long"].gain
    assert gain is not None
    assert gain.over_control is not None
    assert gain.gain.mean == pytest.approx(0.4)
    assert gain.over_control.mean == pytest.approx(0.35)


def test_every_benchmark_has_its_outcomes(study: tuple[Report, Path]) -> None:
    models = results.read(study[0])
    assert results.benchmarks(models) == ("gsm8k", "math500")
    found = findings.outcomes(models, "math500")
    assert [(each.name, each.base.mean, each.num_questions) for each in found[:2]] == [
        ("stable", 0.1, 120),
        ("long", 0.15, 120),
    ]


def test_pass_at_k_after_rl_is_the_mean_over_seeds() -> None:
    def evaluated(low: float, mean: float, high: float, num_samples: int) -> dict[str, Evaluated]:
        at = {
            "1": {"mean": 0.1, "low": 0.0, "high": 0.2, "n": 5},
            "2": {"mean": mean, "low": low, "high": high, "n": 5},
        }
        scores = {"pass_at": at, "maj_at": at, "num_samples": num_samples, "title": "GSM8K"}
        return {"gsm8k": Evaluated(scores=scores, samples=())}

    model = ModelResults(
        name="long",
        training=None,
        base=evaluated(0.1, 0.2, 0.3, 1),
        rl=(),
        after=(evaluated(0.2, 0.4, 0.5, 2), evaluated(0.4, 0.6, 0.9, 2)),
    )
    (found,) = findings.sampled_scores([model], "gsm8k")
    assert (found.name, found.benchmark, found.state, found.num_samples) == ("long", "GSM8K", "after RL", 2)
    assert list(found.pass_at) == [1, 2]
    assert (found.pass_at[2].low, found.pass_at[2].mean, found.pass_at[2].high) == pytest.approx((0.3, 0.5, 0.7))


def test_a_question_that_is_asked_twice_counts_twice() -> None:
    rows = tuple({"index": place, "sample": 0, "question": "1 + 1", "correct": place == 0} for place in (1, 0))
    assert list(Evaluated(scores={}, samples=rows).correct_by_question().values()) == [1.0, 0.0]


def test_models_must_answer_the_same_questions() -> None:
    def evaluated(question: str) -> dict[str, Evaluated]:
        samples = ({"index": 0, "sample": 0, "question": question, "correct": True},)
        return {"gsm8k": Evaluated(scores={}, samples=samples)}

    def model(name: str, question: str) -> ModelResults:
        return ModelResults(name=name, training=None, base=evaluated(question), rl=(), after=())

    with pytest.raises(ArtifactError, match="long and one of stable asked different questions"):
        findings.outcomes([model("stable", "1 + 1"), model("long", "2 + 2")], "gsm8k")
