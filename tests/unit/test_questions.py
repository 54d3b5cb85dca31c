"""Question files, good and bad."""

from pathlib import Path

import pytest

from megatron_octo import questions
from megatron_octo.errors import CorpusError


def test_further_keys_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text('{"question": "1+1", "answer": "2", "level": 3}\n\n')
    (only,) = questions.read(file)
    assert (only.question, only.answer, only.extra) == ("1+1", "2", {"level": 3})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question": "1", "answer": "1"}\n{"question"', r"q\.jsonl:2 is not JSON"),
        ('{"question": "1", "answer": 1}\n', r"q\.jsonl:1 has no text field 'answer'"),
        ("[1]\n", r"q\.jsonl:1 has no text field 'question'"),
        ("\n", "holds no questions"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(text)
    with pytest.raises(CorpusError, match=message):
        questions.read(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"none\.jsonl"):
        questions.read(tmp_path / "none.jsonl")
