"""Tokens that several processes share: never more than allowed, and nothing lost of what others did not use."""

import json
from pathlib import Path

import pytest

from megatron_octo.curation.language_model import answers
from megatron_octo.curation.language_model.answers import Answer
from megatron_octo.curation.language_model.budget import CLAIMS, Budget, BudgetSpent, most_tokens


def budget(folder: Path, name: str = "0.jsonl", *, used: int = 0, max_tokens: int | None = 1000) -> Budget:
    return Budget(folder / name, used=used, max_tokens=max_tokens, concurrency=4)


def claims(folder: Path) -> dict[str, int]:
    return dict(json.loads((folder / CLAIMS).read_text()))


def test_a_request_that_fits_goes_out(tmp_path: Path) -> None:
    mine = budget(tmp_path)
    assert mine.reserve(600)
    assert not mine.reserve(600)  # until the first is over
    mine.settle(600, 100)
    assert mine.reserve(600)
    mine.settle(600, 0)
    mine.close()
    assert claims(tmp_path) == {"0.jsonl": 100}


def test_the_end(tmp_path: Path) -> None:
    with pytest.raises(BudgetSpent, match=r"max_tokens=1,000 .* 700 tokens are used .* may need 301 more"):
        budget(tmp_path, used=700).reserve(301)
    assert budget(tmp_path, used=700).reserve(300)
    assert budget(tmp_path, used=700, max_tokens=None).reserve(10**9)


def test_two_processes_share_it(tmp_path: Path) -> None:
    one, two = budget(tmp_path, "1.jsonl"), budget(tmp_path, "2.jsonl")
    assert one.reserve(600)
    assert two.reserve(400)
    assert sum(claims(tmp_path).values()) == 1000
    one.settle(600, 10)
    one.close()
    two.settle(400, 400)
    assert two.reserve(590)


def test_claims_are_blocks_but_leave_something_to_others(tmp_path: Path) -> None:
    mine = budget(tmp_path, max_tokens=100_000)
    assert mine.reserve(10)
    assert claims(tmp_path) == {"0.jsonl": 40}  # of four requests
    assert mine.reserve(1000)
    assert claims(tmp_path) == {"0.jsonl": 40 + 3880}
    assert mine.reserve(96_000)


def test_what_a_killed_process_claimed_comes_back(tmp_path: Path) -> None:
    dead = budget(tmp_path, "dead.jsonl")
    assert dead.reserve(900)
    with answers.opened(tmp_path / "dead.jsonl") as known:
        known.add("00", Answer(text="", finished=True, prompt_tokens=20, answer_tokens=30))
        with pytest.raises(BudgetSpent):  # alive
            budget(tmp_path).reserve(200)
    mine = budget(tmp_path)
    assert mine.reserve(950)
    assert claims(tmp_path) == {"dead.jsonl": 50, "0.jsonl": 950}


def test_answers_of_a_try_without_a_budget_count(tmp_path: Path) -> None:
    budget(tmp_path, used=5).close()
    with answers.opened(tmp_path / "1.jsonl") as known:
        budget(tmp_path, "1.jsonl", max_tokens=None).close()
        known.add("00", Answer(text="", finished=True, prompt_tokens=200, answer_tokens=300))
    with pytest.raises(BudgetSpent):
        budget(tmp_path).reserve(501)


@pytest.mark.parametrize(("prompt", "most"), [("", 128 + 10), ("word", 132 + 10), ("∫", 131 + 10)])
def test_what_a_request_can_cost(prompt: str, most: int) -> None:
    assert most_tokens(prompt, 10) == most
