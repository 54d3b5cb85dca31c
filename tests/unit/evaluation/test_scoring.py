"""What samples add up to."""

from random import Random
from typing import Any

import pytest

from megatron_octo.errors import ArtifactError
from megatron_octo.evaluation.scoring import scores


def row(index: int, sample: int, extracted: str | None, **fields: Any) -> dict[str, Any]:
    return {
        "index": index, "sample": sample, "correct": extracted == "5", "num_tokens": 10, "finish_reason": "stop",
        "extracted": extracted, "grading_timeout": False,
    } | fields  # fmt: skip


def test_one_sample_a_question() -> None:
    found = scores([row(0, 0, "5"), row(1, 0, None, num_tokens=30, finish_reason="length", grading_timeout=True)])
    assert {key: value for key, value in found.items() if not isinstance(value, dict)} == {
        "response_length": 20, "response_length_correct": 10, "truncated": 0.5, "answered": 0.5, "grading_timeouts": 1,
        "num_samples": 1,
    }  # fmt: skip
    assert (found["accuracy"]["mean"], found["accuracy"]["n"]) == (0.5, 2)
    assert found["pass_at"] == found["maj_at"] == {"1": found["accuracy"]}


def test_several_samples_a_question() -> None:
    answers = [["5", "5.", r"\text{5}", "4"], ["4", "5", "4", "4"], ["5", None, None, None], ["6"] * 4]
    found = scores(
        [
            row(i, k, answer, correct=answer in ("5", "5.", r"\text{5}"))
            for i, of in enumerate(answers)
            for k, answer in enumerate(of)
        ]
    )
    assert found["num_samples"] == 4
    assert found["accuracy"]["mean"] == 5 / 16
    # pass@2: 1 - C(1,2)/C(4,2) = 1, 1/2, 1/2, 0
    assert {k: value["mean"] for k, value in found["pass_at"].items()} == {"1": 5 / 16, "2": 0.5, "4": 0.75}
    # The three spellings of 5 outvote 4; a response without an answer has no vote.
    assert {k: value["mean"] for k, value in found["maj_at"].items()} == {
        "1": 5 / 16,
        "2": pytest.approx(0.375, abs=0.05),
        "4": 0.5,
    }


def test_spellings_of_one_answer_are_one_vote() -> None:
    right = [row(0, 0, "1/2", correct=True), row(0, 1, "7"), row(0, 2, r"\frac{1}{2}", correct=True), row(0, 3, "8")]
    assert scores(right)["maj_at"]["4"]["mean"] == 1
    wrong = [row(0, 0, "5"), row(0, 1, "18"), row(0, 2, "18.0"), row(0, 3, "7")]
    assert scores(wrong)["maj_at"]["4"]["mean"] == 0


def test_the_order_of_the_rows_makes_no_difference() -> None:
    rows = [row(index, sample, str(4 + (index * sample) % 3)) for index in range(20) for sample in range(5)]
    shuffled = Random(0).sample(rows, len(rows))
    assert shuffled != rows
    assert scores(shuffled) == scores(rows)
    assert list(scores(rows)["pass_at"]) == ["1", "2", "4"]


def test_no_right_answer_has_no_length() -> None:
    assert scores([row(0, 0, "1")])["response_length_correct"] is None


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row(0, 0, "5"), row(0, 1, "5"), row(1, 0, "5")],
        [row(0, 0, "5"), row(1, 1, "5")],
        [row(0, 0, "5"), row(0, 0, "5"), row(1, 0, "5")],
    ],
)
def test_samples_that_are_missing_or_double_are_refused(rows: list) -> None:
    with pytest.raises(ArtifactError, match="run the evaluation to its end"):
        scores(rows)
