"""The fast normaliser against the recipe's words, written down as they stand."""

import random
import re
import unicodedata

import pytest

from megatron_octo.curation.scoring.normalising import normalised, one_line

#: Letters, digits, spaces and signs of every kind the fast one treats in its own way.
SIGNS = "aZ09 _-.<>$\n\t\x00\x1c\x7fİΣσéß²½٣…’“—\u00a0\u2028\u0301①ﬁ中五Ⅷ𝐱𝟙\U0001f600ÿþª"


def literally(text: str) -> list[str]:
    """The steps one by one; the pattern is nltk's wordpunct_tokenize."""
    words: list[str] = []
    for token in re.findall(r"\w+|[^\w\s]+", unicodedata.normalize("NFKC", text)):
        token = token.lower()
        if token.isdigit():
            words.append("<NUM>")
        elif len(token) <= 100:
            words += re.sub(r"[^a-z0-9 ]", "", re.sub(r"[-_]", " ", token)).split()
    return words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's 2,500 m-long: café_2", "it s <NUM> <NUM> m long caf 2"),
        ("Let $x_1 = \\frac{1}{2}$", "let x 1 frac <NUM> <NUM>"),
        ("SUM\r\nOF\tALL", "sum of all"),
        ("“Ｆｕｌｌ ｗｉｄｔｈ” ½", "full width <NUM> <NUM>"),
        ("2π and π2", "2 and 2"),
        ("a<b && <NUM>", "a b num"),
        ("", ""),
    ],
)
def test_words(text: str, words: str) -> None:
    assert normalised(text).decode().split() == words.split()


@pytest.mark.parametrize("letter", ["a", "é", "9", "_", "中"])
@pytest.mark.parametrize("count", [99, 100, 101, 102, 1000])
def test_long_tokens(letter: str, count: int) -> None:
    text = f"one {letter * count} two {'b' * 40}{letter * (count - 40)}"
    assert normalised(text).decode().split() == literally(text)


def test_as_the_recipe_says() -> None:
    drawn = random.Random(1234)
    texts = ["".join(drawn.choices(SIGNS, k=drawn.randint(0, 14))) for _ in range(20_000)]
    wrong = [text for text in texts if normalised(text).decode().split() != literally(text)]
    assert wrong == []


def test_one_line_keeps_what_fasttext_would_not_read_as_text() -> None:
    assert one_line("A __label__1\nand </s> B\ud800") == b"A  1 and   B?"
