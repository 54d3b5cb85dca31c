"""What responses are worth: the forms of the released scripts, overlong shaping, functions of the user's own."""

import math
import sys
from pathlib import Path

import pytest

from megatron_octo.errors import ConfigError, OctoError
from megatron_octo.rl.config import Extraction, Reward, RewardForm
from megatron_octo.rl.rewards import Score, Scorer, repetition, score_all, with_whole_path

RIGHT, WRONG, NO_BOX = r"so \boxed{3}", r"so \boxed{4}", "so 3"
TWO_BOXES = r"\boxed{4}, no, \boxed{3}"
REPEATED = r"again. again. again. again. again. \boxed{3}"


def reward(form: RewardForm, response: str) -> float:
    return Scorer(Reward(form=form))(response, "3", tokens=5, finished=True, cap=10).reward


@pytest.mark.parametrize(
    ("form", "right", "wrong", "no_box", "two_boxes", "repeated"),
    [
        (RewardForm.SIGN, 1, -1, -1, 1, 1),
        (RewardForm.FORMAT, 1, -0.5, -1, -1, -1),
        (RewardForm.REPETITION, 1, -1, -1, 1, -2),
        (RewardForm.ONE_BOX, 1, -1, -1, -2, -2),
    ],
)
def test_forms(form: RewardForm, right: float, wrong: float, no_box: float, two_boxes: float, repeated: float) -> None:
    found = [reward(form, response) for response in (RIGHT, WRONG, NO_BOX, TWO_BOXES, REPEATED)]
    assert found == [right, wrong, no_box, two_boxes, repeated]


def test_a_score_says_what_it_rests_on() -> None:
    score = Scorer(Reward(form=RewardForm.ONE_BOX))(TWO_BOXES, "3", tokens=5, finished=True, cap=10)
    assert score == Score(correct=True, reward=-2.0, boxes=2, repetition=0.0, timeout=False)


def test_lenient_extraction_reads_prose() -> None:
    scorer = Scorer(Reward(extraction=Extraction.LENIENT))
    assert [scorer(text, "3", tokens=5, finished=True, cap=10).reward for text in (NO_BOX, WRONG)] == [1, -1]


@pytest.mark.parametrize(("tokens", "worth"), [(1, 1.0), (80, 1.0), (90, 0.75), (95, 0.625), (100, 0.5)])
def test_overlong_responses_lose_linearly(tokens: int, worth: float) -> None:
    scorer = Scorer(Reward(overlong_buffer_tokens=20, overlong_penalty=0.5))
    assert scorer(RIGHT, "3", tokens=tokens, finished=tokens < 100, cap=100).reward == worth


@pytest.mark.parametrize(
    ("text", "share"), [("", 0.0), ("x" * 19, 0.0), ("x" * 21, 0.5), ("abcdefghijklmnopqrstuvwxyz", 0.0)]
)
def test_repetition(text: str, share: float) -> None:
    assert repetition(text) == share


@pytest.mark.parametrize(("characters", "repeats"), [(200, True), (201, False)])
def test_what_repeats_has_200_characters_at_most(characters: int, repeats: bool) -> None:
    """Without a bound the search takes the square of a response's length."""
    unit = "".join(f"{number:03}," for number in range(100))[:characters]
    assert reward(RewardForm.REPETITION, unit * 5 + RIGHT) == (-2 if repeats else 1)


def test_score_all_keeps_the_order() -> None:
    scores = score_all(
        Scorer(Reward()), [RIGHT, WRONG, RIGHT], ["3", "3", "4"], tokens=[1, 2, 3], finished=[True, True, False], cap=3
    )
    assert [score.correct for score in scores] == [True, False, False]


@pytest.fixture
def own(tmp_path: Path) -> str:
    file = tmp_path / "mine.py"
    file.write_text(
        "def reward(response, answer, *, correct, tokens, finished):\n"
        "    return 10 * correct + tokens / 4 + finished\n"
        "def text(response, answer, **about):\n"
        "    return 'much'\n"
        "def infinite(response, answer, **about):\n"
        "    return float('inf')\n"
        "def broken(response, answer, **about):\n"
        "    return 1 / 0\n"
        "def positional(response):\n"
        "    return 1\n"
    )
    return str(file)


def test_a_function_of_the_users_own(own: str) -> None:
    score = Scorer(Reward(function=f"{own}:reward"))(RIGHT, "3", tokens=2, finished=True, cap=10)
    assert (score.correct, score.reward) == (True, 11.5)


def test_a_file_of_the_users_own_may_be_called_and_written_as_any_module(tmp_path: Path) -> None:
    file = tmp_path / "math.py"
    file.write_text(
        "from __future__ import annotations\n"
        "import math\n"
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Worth:\n"
        "    value: float\n"
        "def reward(response, answer, **about):\n"
        "    return Worth(math.sqrt(4)).value\n"
    )
    assert Scorer(Reward(function=f"{file}:reward"))(RIGHT, "3", tokens=2, finished=True, cap=10).reward == 2
    assert sys.modules["math"] is math


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("{own}:rewards", "no function 'rewards'.*nearest: reward"),
        ("{own}:positional", "cannot be called with a response.*write it as def reward"),
        ("{own}.py:reward", "importing .* failed with FileNotFoundError"),
        ("no_such_package.module:reward", "importing no_such_package.module failed"),
    ],
)
def test_functions_that_cannot_work_are_refused(own: str, function: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Scorer(Reward(function=function.format(own=own)))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("text", "gave 'much'"),
        ("infinite", "gave inf; it must give a finite number"),
        ("broken", "raised ZeroDivisionError"),
    ],
)
def test_functions_that_fail_are_named_with_the_response(own: str, name: str, said: str) -> None:
    scorer = Scorer(Reward(function=f"{own}:{name}"))
    with pytest.raises(OctoError, match=rf"mine.py:{name}'.*so \\\\boxed.*{said}"):
        scorer(RIGHT, "3", tokens=2, finished=True, cap=10)


@pytest.mark.parametrize(
    ("function", "whole"),
    [(None, None), ("mine.py:reward", "{here}/mine.py:reward"), ("/a/mine.py:f", "/a/mine.py:f"), ("a.b:f", "a.b:f")],
)
def test_a_file_of_the_users_own_is_named_from_the_root(
    function: str | None, whole: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert with_whole_path(Reward(function=function)).function == (whole and whole.format(here=tmp_path))
