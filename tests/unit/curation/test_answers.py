"""The file of answers: what is in it survives, what a kill has cut does not spoil the rest."""

from pathlib import Path

import pytest

from megatron_octo.curation.language_model import answers
from megatron_octo.curation.language_model.answers import Answer, Question
from megatron_octo.errors import ArtifactError

KEYS = [f"{number:064x}" for number in range(3)]


def answer(text: str) -> Answer:
    return Answer(text=text, finished=True, prompt_tokens=3, answer_tokens=2)


def fill(file: Path, texts: list[str]) -> None:
    with answers.opened(file) as known:
        for key, text in zip(KEYS, texts, strict=False):
            known.add(key, answer(text))


def test_answers_are_there_again(tmp_path: Path) -> None:
    file = tmp_path / "new" / "0.jsonl"
    fill(file, ["ünlike \u2028 lines", "two\nlines"])
    with answers.opened(file) as known:
        assert known.get(KEYS[0]) == answer("ünlike \u2028 lines")
        assert known.get(KEYS[1]) == answer("two\nlines")
        assert known.get(KEYS[2]) is None
        assert (len(known), known.tokens) == (2, 10)
    assert answers.tokens_in(file) == 10


@pytest.mark.parametrize("cut", [1, 30, 150])
def test_a_cut_line_is_dropped(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "0.jsonl"
    fill(file, ["first", "second"])
    whole = file.read_bytes()
    assert cut < len(whole.split(b"\n")[1]) + 1
    file.write_bytes(whole[:-cut])
    with answers.opened(file) as known:
        assert (known.get(KEYS[0]), known.get(KEYS[1])) == (answer("first"), None)
        known.add(KEYS[1], answer("second"))
    assert file.read_bytes() == whole


def test_a_spoilt_line_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "0.jsonl"
    fill(file, ["first", "second", "third"])
    first, second, third, _ = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join([first, b"\0" * len(second), third, b""]))
    with answers.opened(file) as known:
        assert [known.get(key) for key in KEYS] == [answer("first"), None, answer("third")]


def test_an_answer_belongs_to_its_whole_question() -> None:
    question = {"model": "m", "prompt": "p", "max_new_tokens": 1, "temperature": 0.0, "seed": 1, "attempt": 0}
    others = [{"model": "n"}, {"prompt": "q"}, {"max_new_tokens": 2}, {"temperature": 0.1}, {"seed": 2}, {"attempt": 1}]
    keys = {Question(**question | other).key() for other in ({}, *others)}  # type: ignore[arg-type]
    assert len(keys) == 7
    # Also on another machine, and by a later version: answers are paid for.
    assert Question(**question).key() == "03f3b653f9ed9e8e0cb1573d68a924fb588d6569e11bc4579b30384147789a9b"  # type: ignore[arg-type]


def test_two_processes_do_not_work_on_the_same_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "LEAVE_SECONDS", 0.2)
    file = tmp_path / "0.jsonl"
    with answers.opened(file), pytest.raises(ArtifactError, match="another process"), answers.opened(file):
        pass
    with answers.opened(file) as known:
        assert len(known) == 0
