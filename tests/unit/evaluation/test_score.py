"""What samples add up to."""

import pytest

from megatron_octo.errors import ConfigError
from megatron_octo.evaluation.config import Evaluation
from megatron_octo.evaluation.run import score
from megatron_octo.templates import Template


def sample(correct: bool, num_tokens: int, finish_reason: str, extracted: str | None) -> dict:
    return {
        "correct": correct, "num_tokens": num_tokens, "finish_reason": finish_reason, "extracted": extracted,
        "grading_timeout": False,
    }  # fmt: skip


def test_scores() -> None:
    scores = score([sample(True, 10, "stop", "5"), sample(False, 30, "length", None)], samples_per_question=1)
    assert scores["accuracy"]["mean"] == 0.5
    assert scores["accuracy"]["n"] == 2
    assert scores["response_length"] == 20
    assert scores["response_length_correct"] == 10
    assert scores["truncated"] == 0.5
    assert scores["boxed"] == 0.5


def test_no_right_answer_has_no_length() -> None:
    assert score([sample(False, 3, "stop", "1")], samples_per_question=1)["response_length_correct"] is None


def test_greedy_samples_are_not_repeated() -> None:
    with pytest.raises(ConfigError, match="greedy samples are all the same"):
        Evaluation(
            model="m", dataset="d", template=Template.SIMPLE, max_new_tokens=8, batch_size=8, samples_per_question=4
        )
