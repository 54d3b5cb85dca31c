import random

import pytest

from megatron_octo.curation.refinement.chunks import cut

PARAGRAPH = "A sentence of words. And one more!\nA second line."
FORMULA = "\\begin{align}\na &= b. \\\\\n\nc &= d\n\\end{align}"
CODE = "```python\nx = 1\n\n\ny = 2\n```"


@pytest.mark.parametrize(
    ("text", "max_characters", "chunks"),
    [
        ("short", 5, ["short"]),
        ("", 5, [""]),
        ("one two.\n\nthree four\nfive six seven", 25, ["one two.\n\n", "three four\nfive six seven"]),
        ("one two three\nfour five. six seven", 25, ["one two three\n", "four five. six seven"]),
        ("one two three four. (Five six.) seven eight", 35, ["one two three four. (Five six.) ", "seven eight"]),
        ("one two three four five six", 12, ["one two ", "three four ", "five six"]),
        ("abcdefghij" * 2, 8, ["abcdefgh", "ijabcdef", "ghij"]),
        # The paragraph end comes too early: a line's is taken.
        ("a\n\nbbbb bbbb bbbb bbbb\ncccc cccc cccc", 36, ["a\n\nbbbb bbbb bbbb bbbb\n", "cccc cccc cccc"]),
    ],
)  # fmt: skip
def test_ends_where_the_text_pauses(text: str, max_characters: int, chunks: list[str]) -> None:
    assert list(cut(text, max_characters)) == chunks


@pytest.mark.parametrize(
    "block", [FORMULA, CODE, "$$\na = b.\n\nc = d\n$$", "\\[\na = b. c\n\nd\n\\]"], ids=["latex", "code", "$$", "\\["]
)
def test_formulas_and_code_stay_whole(block: str) -> None:
    before = "Before it. " * 4 + "\n"
    text = f"{before}{block} After it. {'And more. ' * 20}"
    chunks = list(cut(text, len(before) + len(block) - 2))
    assert "".join(chunks) == text
    assert chunks[0] == before
    assert block in chunks[1]


@pytest.mark.parametrize("stray", ["$$", "\\begin{align}", "```", "\\]"])
def test_a_stray_mark_does_not_keep_the_rest_together(stray: str) -> None:
    text = f"{stray}\n" + "One two three.\n\n" * 50
    assert all(chunk.endswith("\n\n") for chunk in cut(text, 100))


def test_what_is_longer_than_a_chunk_is_cut_inside() -> None:
    text = "\\begin{align}\n" + "a &= b \\\\\n" * 40 + "\\end{align}"
    chunks = list(cut(text, 100))
    assert "".join(chunks) == text
    assert all(chunk.endswith("\n") for chunk in chunks[:-1])


def test_nothing_is_lost_and_no_chunk_is_too_long_or_too_short() -> None:
    source = random.Random(20_261_123)
    pieces = [
        *"abc .!?\n\t$",
        "\n\n",
        "word ",
        "Words in a row. ",
        "$$",
        "\\[",
        "\\]",
        "```\n",
        FORMULA,
        CODE,
        "日本語。",
        "\r\n",
    ]
    for _ in range(400):
        text = "".join(source.choices(pieces, k=source.randrange(200)))
        most = source.randrange(1, 120)
        chunks = list(cut(text, most))
        assert "".join(chunks) == text
        assert all(len(chunk) <= most for chunk in chunks)
        assert all(len(chunk) >= max(1, most // 4) for chunk in chunks[:-1])
