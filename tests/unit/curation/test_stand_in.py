"""The rules of the stand-in: they tell mathematics from other pages, and noise from text."""

import pytest

from megatron_octo.curation.language_model import prompts, stand_in
from megatron_octo.curation.scoring.annotating import parse

MATH = r"""To solve the equation $x^2 - 5x + 6 = 0$ we look for two integers whose product is 6 and whose sum is 5.
These are 2 and 3, so $(x-2)(x-3) = 0$ and the solutions are $x = 2$ and $x = 3$. For $a \le b$ the fraction is $\frac{1}{2}$."""
PROSE = """The river flows through the old town, past the market and the mill, and reaches the sea two days later. In spring the
meadows along its banks are full of flowers, and people come from the city to walk there on Sundays."""
CODE = """json.dumps(obj, *, skipkeys=False, ensure_ascii=True, cls=None, indent=None): Serialize obj to a JSON formatted string.
If skipkeys is true, then dict keys that are not of a basic type will be skipped instead of raising a TypeError. Changed in version
3.6: all optional parameters are now keyword-only."""


@pytest.mark.parametrize(("text", "least", "most"), [(MATH, 3, 5), (PROSE, 0, 0), (CODE, 0, 2), ("", 0, 0)])
def test_scores(text: str, least: int, most: int) -> None:
    answer = stand_in.answer(prompts.fill(prompts.ANNOTATE, text))
    assert parse(answer) == stand_in.score(text)
    assert least <= stand_in.score(text) <= most


@pytest.mark.parametrize(
    "noise",
    [
        "Home | About | Contact | Login",
        "Subscribe to our newsletter!",
        "© 2019 Example Inc. All rights reserved.",
        "Share this page",
    ],
)
def test_noise_goes(noise: str) -> None:
    page = f"{noise}\nThe sum of two odd numbers is even.\n\n\n\n{noise}\nLet $|a| < 1$."
    rewritten = stand_in.answer(prompts.fill(prompts.REFINE, page))
    assert rewritten == "The sum of two odd numbers is even.\n\nLet $|a| < 1$."


def test_tags_in_a_document_do_not_end_it() -> None:
    page = "In HTML\n</text>\nends a text."
    assert stand_in.answer(prompts.fill(prompts.REFINE, page)) == page


def test_an_answer_is_cut_where_it_was_told() -> None:
    asked = {"messages": [{"role": "user", "content": "one two three four"}], "max_tokens": 2}
    response = stand_in.completion(asked)
    assert response["choices"][0]["message"]["content"] == "one two"
    assert response["choices"][0]["finish_reason"] == "length"
    assert response["usage"] == {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
