"""Questions in documents: what counts as the same words, and that neither hashes nor borders of documents make a match."""

import json
import random
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from megatron_octo import ngrams
from megatron_octo.ngrams import Index, Match, normalised, words

QUESTION = (
    "Janet’s ducks lay 16 eggs per day. She eats three for breakfast every morning and bakes muffins for her friends"
    " every day with four. How much does she make at the market, if an egg costs $2.50?"
)
THIRTEEN = "one two three four five six seven eight nine ten eleven twelve thirteen"
EIGHT = "what is seven times six plus the rest"
SEED = 20_261_123


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n\t", []),
        ("The CAT, the\ncat!", ["the", "cat", "the", "cat"]),
        ("don't don’t", ["don", "t", "don", "t"]),
        (r"Let $x_1=(0,3)$ and \(x_{1} = ( 0 , 3 )\).", ["let", "x", "1", "0", "3", "and", "x", "1", "0", "3"]),
        (r"\[\frac{1}{2}\]", ["frac", "1", "2"]),
        ("3.14 1,000 50% $18", ["3", "14", "1", "000", "50", "18"]),
        ("café cafe\u0301 CAFÉ", ["café"] * 3),
        ("x² ﬁne —ﬀ… 𝒙", ["x2", "fine", "ff", "x"]),
        ("Ümläut\u00a0STRASSE\u2028Привет", ["ümläut", "strasse", "привет"]),
        ("a\ud800b", ["a", "b"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def upper(text: str) -> str:
    return text.upper()


def spread(text: str) -> str:
    return text.replace(" ", " \n\t ")


def without_signs(text: str) -> str:
    return text.replace("’", "'").replace(".", " ").replace(",", "")


def in_latex(text: str) -> str:
    return text.replace("16", r"\(16\)").replace("$2.50", r"$\$2.50$").replace("three", "**three**")


@pytest.mark.parametrize("change", [str, upper, str.title, spread, without_signs, in_latex])
def test_a_planted_question_is_found(change: Callable[[str], str]) -> None:
    document = f"Some words before it, then Q: {change(QUESTION)} A: {change('18 dollars')} and more."
    assert Index([QUESTION], ngram=13).find([document]) == [
        Match(document=0, question=0, text=" ".join(words(QUESTION)))
    ]


def test_every_one_of_many_planted_questions_is_found_and_no_shuffled_one() -> None:
    source = random.Random(SEED)
    vocabulary = [f"{source.choice('abcdefgh')}{number}" for number in range(5_000)]
    questions = [" ".join(source.choices(vocabulary, k=source.randint(8, 60))) for _ in range(500)]
    shuffled = [" ".join(source.sample(question.split(), k=len(question.split()))) for question in questions]
    noise = [" ".join(source.choices(vocabulary, k=200)) for _ in questions]
    index = Index(questions, ngram=13)
    planted = [f"{before}. {question.upper()}? {before}" for before, question in zip(noise, questions, strict=True)]
    assert {(match.document, match.question) for match in index.find(planted)} == {(i, i) for i in range(500)}
    assert index.find(shuffled) == []


@pytest.mark.parametrize(("shared", "found"), [(13, True), (12, False)])
def test_thirteen_words_of_a_longer_question(shared: int, found: bool) -> None:
    asked = words(QUESTION)
    document = "before " + " ".join(asked[5 : 5 + shared]) + " after"
    assert [match.text for match in Index([QUESTION], ngram=13).find([document])] == found * [" ".join(asked[5:18])]


@pytest.mark.parametrize(("ngram", "found"), [(5, True), (13, False)])
def test_another_length(ngram: int, found: bool) -> None:
    assert bool(Index([THIRTEEN + " fourteen"], ngram=ngram).find(["three four five six seven"])) is found


@pytest.mark.parametrize("length", range(8, 13))
def test_a_short_question_must_be_there_as_a_whole(length: int) -> None:
    asked = THIRTEEN.split()[:length]
    index = Index([" ".join(asked)], ngram=13)
    assert index.too_short == ()
    assert index.find([f"say {' '.join(asked)} now", " ".join(asked)]) == [
        Match(document=0, question=0, text=" ".join(asked)),
        Match(document=1, question=0, text=" ".join(asked)),
    ]
    assert index.find([" ".join(asked[:-1]), " ".join([*asked[:-1], "other"])]) == []


def test_questions_too_short_to_tell() -> None:
    index = Index([EIGHT, "seven words are not enough for this", "", "5 + 7 = ?"], ngram=13)
    assert index.too_short == (1, 2, 3)
    assert index.find(["seven words are not enough for this", "5 + 7 = ?"]) == []
    assert Index(["one two three four"], ngram=5).too_short == (0,)
    assert Index(["one two three four five"], ngram=5).too_short == ()


def test_neither_documents_nor_questions_run_into_each_other() -> None:
    halves = [" ".join(THIRTEEN.split()[:7]), " ".join(THIRTEEN.split()[7:])]
    assert Index([THIRTEEN], ngram=13).find(halves) == []
    assert Index([f"{EIGHT} {half}" for half in halves], ngram=13).find([THIRTEEN]) == []


@pytest.mark.parametrize("questions", [[], ["", ""], [QUESTION]])
@pytest.mark.parametrize("documents", [[], [""], ["", "", "a"]])
def test_nothing_to_find(questions: list[str], documents: list[str]) -> None:
    assert Index(questions, ngram=13).find(documents) == []


def test_all_questions_of_one_document_and_each_once() -> None:
    index = Index([THIRTEEN, EIGHT, f"{THIRTEEN} fourteen"], ngram=13)
    assert index.find(["nothing", f"{EIGHT}. {THIRTEEN}! {THIRTEEN}? {EIGHT}"]) == [
        Match(document=1, question=0, text=THIRTEEN),
        Match(document=1, question=1, text=EIGHT),
        Match(document=1, question=2, text=THIRTEEN),
    ]


@pytest.mark.parametrize("hashes", ["all alike", "all words alike"])
def test_collisions_of_hashes_are_no_matches(monkeypatch: pytest.MonkeyPatch, hashes: str) -> None:
    source = random.Random(SEED)
    questions = [" ".join(source.choices("abcd", k=source.randint(8, 20))) for _ in range(6)]
    documents = [" ".join(source.choices("abcd", k=60)) for _ in range(6)] + questions[:3]
    expected = Index(questions, ngram=13).find(documents)
    alike = 0 if hashes == "all alike" else 7
    monkeypatch.setattr(ngrams, "_mixed", lambda values: np.full_like(values, alike))
    assert Index(questions, ngram=13).find(documents) == expected
    assert {(match.document, match.question) for match in expected} >= {(6, 0), (7, 1), (8, 2)}


def test_the_same_as_comparing_tuples_of_words() -> None:
    source = random.Random(SEED)
    questions = [" ".join(source.choices("ab", k=source.randint(6, 24))) for _ in range(60)]
    documents = [" ".join(source.choices("ab", k=source.randint(0, 120))) for _ in range(60)]
    found = {(match.document, match.question) for match in Index(questions, ngram=13).find(documents)}
    expected = {
        (number, asked)
        for number, document in enumerate(documents)
        for asked, question in enumerate(questions)
        if shares_words(document.split(), question.split())
    }
    assert found == expected
    assert len(found) > 20


def shares_words(document: list[str], question: list[str]) -> bool:
    width = min(13, len(question))
    return width >= 8 and bool(tuples(document, width) & tuples(question, width))


def tuples(words: list[str], width: int) -> set[tuple[str, ...]]:
    return {tuple(words[start : start + width]) for start in range(len(words) - width + 1)}


@pytest.mark.parametrize("length", [8, 9, 63, 64, 65, 200])
def test_long_words_that_differ_at_the_end(length: int) -> None:
    question = " ".join([*["word"] * 12, "x" * (length - 1) + "y"])
    index = Index([question], ngram=13)
    assert len(index.find([question])) == 1
    assert index.find([question[:-1] + "z", question[:-1], question + "y"]) == []


def test_hashes_are_the_same_in_every_process() -> None:
    code = "from megatron_octo.ngrams import _Text; print(_Text.of(['one two three', 'four']).gram_hashes(2).tolist())"  # fmt: skip
    printed = [
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        )
        for seed in ("1", "2")
    ]
    assert printed[0].stdout == printed[1].stdout
    assert len(set(json.loads(printed[0].stdout))) == 3


def test_normalised_keeps_the_length_of_ascii_text() -> None:
    assert normalised("A-b, $C$") == b"a b   c "
