"""Filters of copies and of benchmark questions: what goes, what stays, and what a reader of the rejects is told."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from datatrove.data import Document

from megatron_octo.curation.copies.unique import Benchmarks, Duplicates
from megatron_octo.errors import CorpusError

SEED = 20_261_123
QUESTIONS = {
    "gsm8k": [
        "Janet’s ducks lay 16 eggs per day. She eats three for breakfast and bakes muffins with four. How much is left?",
        "Weng earns $12 an hour for babysitting. Yesterday, she just did 50 minutes of it. How much did she earn?",
    ],
    "math500": [
        r"Convert the point $(0,3)$ in rectangular coordinates to polar coordinates $(r,\theta)$ please.",
        "Find $x$.",
    ],
}


def copies_file(directory: Path, rows: list[dict[str, object]]) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "00000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def test_copies_go_with_the_id_of_what_stays(tmp_path: Path) -> None:
    rows = [
        {"ordinal": 1, "id": "b", "of": "a", "part": 0, "exact": True},
        {"ordinal": 2, "id": "c", "of": "z", "part": 5, "exact": False},
    ]
    step = Duplicates(copies_file(tmp_path / "copies", rows), tmp_path)
    documents = [Document(text="text", id=name) for name in "abcd"]
    assert [document.id for document in step.run(iter(documents))] == ["a", "d"]
    assert documents[1].metadata == {
        "duplicate_of": {"of": "a", "part": 0, "exact": True}, "filter_reason": "exact_duplicate"
    }  # fmt: skip
    assert documents[2].metadata == {
        "duplicate_of": {"of": "z", "part": 5, "exact": False}, "filter_reason": "near_duplicate"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"ordinal": 0, "id": "x", "of": "a", "part": 0, "exact": True}, "document 0 is 'a', and 'x' in"),
        ({"ordinal": 1, "id": "b", "of": "a", "part": 0, "exact": True}, "names more documents than its part has"),
        ({"id": "b"}, r"00000\.jsonl is missing or damaged"),
    ],
)
def test_copies_of_other_documents_are_refused(tmp_path: Path, row: dict[str, object], message: str) -> None:
    step = Duplicates(copies_file(tmp_path / "copies", [row]), tmp_path)
    with pytest.raises(CorpusError, match=message):
        list(step.run(iter([Document(text="text", id="a")])))


def spread(text: str) -> str:
    return text.replace(" ", " \n\t ")


def without_signs(text: str) -> str:
    return "".join(sign if sign.isalnum() else " " for sign in text)


@pytest.mark.parametrize("change", [str, str.upper, str.title, spread, without_signs])
def test_planted_questions_go_and_clean_documents_stay(tmp_path: Path, change: Callable[[str], str]) -> None:
    source = random.Random(SEED)
    vocabulary = [word for questions in QUESTIONS.values() for question in questions for word in question.split()]
    documents = [Document(text=" ".join(source.choices(vocabulary, k=300)), id=str(place)) for place in range(100)]
    planted = {3: ("gsm8k", 0), 50: ("gsm8k", 1), 99: ("math500", 0)}
    for place, (name, number) in planted.items():
        documents[place].text += "\n" + change(QUESTIONS[name][number]) + "\nA: I do not know."
    step = Benchmarks(QUESTIONS, ngram=13, out=tmp_path)
    kept = [document.id for document in step.run(iter(documents))]
    assert kept == [str(place) for place in range(100) if place not in planted]
    for place, (name, number) in planted.items():
        assert documents[place].metadata["filter_reason"] == f"benchmark_{name}"
        assert [held["question"] for held in documents[place].metadata["benchmark_questions"]] == [
            QUESTIONS[name][number]
        ]


def test_the_reject_shows_question_and_shared_words(tmp_path: Path) -> None:
    held = "bakes muffins with four. How much is left? Weng earns 12 an hour for babysitting; yesterday she just did 50 minutes"
    document = Document(text=held, id="a")
    assert list(Benchmarks(QUESTIONS, ngram=13, out=tmp_path).run(iter([document]))) == []
    assert document.metadata["benchmark_questions"] == [
        {
            "benchmark": "gsm8k",
            "question": QUESTIONS["gsm8k"][1],
            "shared": "weng earns 12 an hour for babysitting yesterday she just did 50 minutes",
        }
    ]


def test_without_benchmarks_all_stay(tmp_path: Path) -> None:
    documents = [Document(text=QUESTIONS["gsm8k"][0], id="a")]
    assert list(Benchmarks({}, ngram=13, out=tmp_path).run(iter(documents))) == documents
