"""Which documents are scored, and what counts as a score."""

import asyncio
from collections.abc import Iterator

import pytest
from datatrove.data import Document

from megatron_octo.curation.language_model.answers import Answer
from megatron_octo.curation.language_model.asking import Refused
from megatron_octo.curation.scoring.annotating import Place, Shown, annotate, parse, quotas, sampled


@pytest.mark.parametrize(
    ("sizes", "sample", "wanted"),
    [
        ({"2014": 3, "2015": 50, "2016": 90}, 24, {"2014": 3, "2015": 11, "2016": 10}),
        ({"2014": 3, "2015": 5}, 100, {"2014": 3, "2015": 5}),
        ({"2014": 100, "2015": 100}, 10, {"2014": 5, "2015": 5}),
        ({"2014": 100, "2015": 100, "2016": 1}, 2, {"2014": 1, "2015": 0, "2016": 1}),
        ({"unknown": 7}, 3, {"unknown": 3}),
    ],
)
def test_quotas(sizes: dict[str, int], sample: int, wanted: dict[str, int]) -> None:
    assert quotas(sizes, sample) == wanted


def corpus(parts: int) -> Iterator[tuple[Place, Document]]:
    """300 documents of 2014 and 100 of 2015, dealt to parts."""
    for number in range(400):
        year = 2014 if number % 4 else 2015
        document = Document(text="t", id=f"page {number}", metadata={"timestamp": f"{year}-01-01"})
        yield Place(part=number * parts // 400, index=number % (400 // parts)), document


def names(parts: int, seed: int) -> list[str]:
    by_place = {place: document.id for place, document in corpus(parts)}
    return [by_place[place] for place in sampled(corpus(parts), {"2014": 20, "2015": 10}, seed)]


def test_a_sample_does_not_depend_on_the_parts() -> None:
    found = names(parts=1, seed=1)
    assert found == names(parts=4, seed=1)
    assert len(set(found)) == 30
    assert sum(int(name.split()[1]) % 4 == 0 for name in found) == 10
    assert found != names(parts=1, seed=2)


def test_a_larger_sample_holds_the_smaller_one() -> None:
    small = sampled(corpus(4), {"2014": 5, "2015": 0}, seed=1)
    large = sampled(corpus(4), {"2014": 50, "2015": 3}, seed=1)
    assert len(small) == 5
    assert set(small) <= set(large)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("It explains much.\nFinal score: 4", 4),
        ("**Final score:** 0", 0),
        ("Final score: <5>", 5),
        ("final score: 3/5.", 3),
        ("### Final Score: **2 points**\n", 2),
        ("Final score: 3\nThat is all.", 3),
        ("Final score: 6", None),
        ("Final score: -1", None),
        ("Final score: 3.5", None),
        ("Final score: 3 or 4", None),
        ("Final score: 3\nFinal score: 3", None),
        ("Final score: <total points>", None),
        ("I give it a 4.", None),
        ("The final score: 4 is too much", None),
        ("", None),
    ],
)
def test_parse(answer: str, score: int | None) -> None:
    assert parse(answer) == score


class Says:
    """Gives these answers one after the other."""

    def __init__(self, *texts: str | None, finished: bool = True) -> None:
        self.texts, self.finished = list(texts), finished
        self.attempts: list[int] = []

    async def __call__(self, prompt: str, *, max_new_tokens: int, attempt: int = 0) -> Answer:
        assert (prompt, max_new_tokens) == ("Judge: a page", 9)
        self.attempts.append(attempt)
        if (text := self.texts[attempt]) is None:
            raise Refused("too long")
        return Answer(text=text, finished=self.finished, prompt_tokens=3, answer_tokens=1)


@pytest.mark.parametrize(
    ("says", "score", "reason", "attempts"),
    [
        (Says("Final score: 2"), 2, None, 1),
        (Says("hm", "Final score: 2"), 2, None, 2),
        (Says("hm", "hm", "hm"), None, "unreadable", 3),
        (Says("hm", None), None, "refused", 2),
        (Says("Final score: 2", "Final score: 2", "Final score: 2", finished=False), None, "cut", 3),
    ],
)
def test_annotate(says: Says, score: int | None, reason: str | None, attempts: int) -> None:
    page = Shown(id="1", year="2014", text="a page")
    found = asyncio.run(annotate(says, page, template="Judge: {text}", max_new_tokens=9, attempts=3))
    assert (found.score, found.reason, says.attempts) == (score, reason, list(range(attempts)))
    assert found.prompt_tokens == 3 * sum(text is not None for text in says.texts[:attempts])
