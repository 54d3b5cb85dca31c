"""Rows out of rollouts, with numbers done by hand."""

from dataclasses import replace

import pytest

from megatron_octo.rl.metrics import EngineLog, evaluation_row, training_row
from megatron_octo.rl.rollouts import Rollout

RIGHT = Rollout(
    prompt=0, eval_set=None, correct=True, reward=1.0, tokens=10, finished=True, boxes=1, repetition=0.0, timeout=False
)
WRONG = replace(RIGHT, correct=False, reward=-1.0, tokens=40)
CUT = replace(WRONG, finished=False, boxes=0, repetition=0.5, tokens=100)


def test_a_training_row_has_every_key_and_what_the_engine_did_not_log_is_none() -> None:
    rollouts = [RIGHT, CUT, replace(WRONG, prompt=1), replace(WRONG, prompt=1, boxes=2, timeout=True, tokens=50)]
    row = training_row(7, rollouts, EngineLog(entropy=0.3, clip_low=0.01, seconds=2.5))
    assert next(iter(row)) == "step"
    assert row == {
        "step": 7,
        "prompts": 2,
        "reward": -0.5,
        "accuracy": 0.25,
        "response_length": 50.0,
        "response_length_p95": 100,
        "response_length_correct": 10.0,
        "truncated": 0.25,
        "repetition": 0.125,
        "boxed": 0.5,
        "groups_without_spread": 0.5,
        "grading_timeouts": 1,
        "entropy": 0.3,
        "kl": None,
        "clip_low": 0.01,
        "clip_high": None,
        "clip": None,
        "learning_rate": None,
        "grad_norm": None,
        "seconds": 2.5,
        "seconds_generation": None,
        "seconds_training": None,
        "seconds_sync": None,
    }


def test_spread_is_of_rewards_not_of_verdicts() -> None:
    shaped = [WRONG, replace(WRONG, reward=-0.5)]
    assert training_row(1, shaped, EngineLog())["groups_without_spread"] == 0
    assert training_row(1, [WRONG, CUT], EngineLog())["groups_without_spread"] == 1


def test_samples_of_a_prompt_need_not_stand_together() -> None:
    mixed = [RIGHT, replace(WRONG, prompt=1), WRONG, replace(WRONG, prompt=1)]
    assert training_row(1, mixed, EngineLog())["groups_without_spread"] == 0.5


def test_without_a_right_response_there_is_no_length_of_right_ones() -> None:
    assert training_row(1, [WRONG], EngineLog())["response_length_correct"] is None


@pytest.mark.parametrize(("count", "p95"), [(1, 1), (2, 2), (20, 19), (21, 20), (100, 95)])
def test_p95_is_the_shortest_length_that_95_percent_do_not_exceed(count: int, p95: int) -> None:
    rollouts = [replace(RIGHT, tokens=tokens) for tokens in range(count, 0, -1)]
    assert training_row(1, rollouts, EngineLog())["response_length_p95"] == p95


def test_an_evaluation_row_is_of_one_set() -> None:
    assert evaluation_row(4, "gsm8k", [RIGHT, replace(CUT, prompt=1)]) == {
        "step": 4,
        "eval/gsm8k/accuracy": 0.5,
        "eval/gsm8k/response_length": 55.0,
        "eval/gsm8k/response_length_p95": 100,
        "eval/gsm8k/response_length_correct": 10.0,
        "eval/gsm8k/truncated": 0.5,
        "eval/gsm8k/repetition": 0.25,
        "eval/gsm8k/questions": 2,
    }
