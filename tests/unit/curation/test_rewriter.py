import asyncio
from collections.abc import Sequence

import pytest
from datatrove.data import Document

from megatron_octo.curation.config import LanguageModel, Refinement
from megatron_octo.curation.language_model.answers import Answer
from megatron_octo.curation.language_model.asking import Refused
from megatron_octo.curation.refinement.refining import Rewriter, Rewritten, kept, refined, rejected

CHUNKS = ["The first paragraph, which has a number: 17.", "The second paragraph, which has none of them.", "The third."]
REFUSAL = "I cannot rewrite this text."


class Model:
    """Answers from a list, chunk by chunk and attempt by attempt; an exception in it is raised."""

    def __init__(self, answers: Sequence[str | Exception], *, finished: bool = True) -> None:
        self.left, self.finished = list(answers), finished
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, prompt: str, *, max_new_tokens: int, attempt: int = 0) -> Answer:
        self.asked.append((prompt, attempt))
        answer = self.left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Answer(text=answer, finished=self.finished, prompt_tokens=1, answer_tokens=max_new_tokens)


def rewrite(model: Model, text: str = "\n\n".join(CHUNKS)) -> Rewritten:
    config = Refinement(model=LanguageModel(attempts=2), max_characters=48, min_length_ratio=0.5, max_length_ratio=1.5)
    rewriter = Rewriter(config, "Rewrite: {text}")
    return asyncio.run(rewriter.rewrite(model, Document(text=text, id="a", metadata={"url": "u"})))


def test_chunks_are_asked_one_by_one_and_joined_by_empty_lines() -> None:
    model = Model([*CHUNKS[:2], f"```\n{CHUNKS[2]}\n```"])
    made = rewrite(model)
    assert made.fault is None
    assert made.text == "\n\n".join(CHUNKS)
    assert model.asked == [(f"Rewrite: {chunk}", 0) for chunk in CHUNKS]
    assert refined(made, refiner="m") == Document(
        text=made.text, id="a", metadata={"url": "u", "refined": True, "refiner": "m", "original_characters": 103, "refined_chunks": 3},
    )  # fmt: skip


def test_a_chunk_that_fails_ends_the_document() -> None:
    model = Model([CHUNKS[0], REFUSAL, REFUSAL])
    made = rewrite(model)
    assert made.fault == "refusal"
    assert [attempt for _, attempt in model.asked] == [0, 0, 1]
    assert rejected(made).metadata == {"url": "u", "filter_reason": "refusal", "answers": [CHUNKS[0], REFUSAL]}
    assert rejected(made).text == kept(made).text == "\n\n".join(CHUNKS)
    assert kept(made).metadata == {"url": "u", "refined": False, "refinement_fault": "refusal"}


def test_another_attempt_may_do_better() -> None:
    model = Model([REFUSAL, *CHUNKS])
    made = rewrite(model)
    assert (made.fault, made.text) == (None, "\n\n".join(CHUNKS))
    assert [attempt for _, attempt in model.asked] == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        (["3.", CHUNKS[2]], CHUNKS[2]),
        (["3.", "III."], "III."),
        (["3.", REFUSAL], "3."),
        (["3.", Refused("filtered")], "3."),
        ([REFUSAL, "3."], "3."),
    ],
)  # fmt: skip
def test_a_short_chunk_is_asked_again_and_does_not_sink_the_whole(answers: list[str | Exception], text: str) -> None:
    model = Model([*CHUNKS[:2], *answers])
    made = rewrite(model)
    assert (made.fault, made.text) == (None, "\n\n".join([*CHUNKS[:2], text]))
    assert not model.left


def test_the_whole_must_keep_within_bounds() -> None:
    assert rewrite(Model(["First."] * 2 + ["Second."] * 2 + [CHUNKS[2]])).fault == "too_short"
    assert rewrite(Model([CHUNKS[0] * 2] * 2 + [CHUNKS[1] * 2] * 2 + [CHUNKS[2]])).fault == "too_long"


def test_another_language_fails() -> None:
    german = [
        "Der erste Absatz, in dem eine Zahl steht: 17.",
        "Der zweite Absatz, in dem wirklich keine Zahl steht.",
        "Der dritte.",
    ]
    assert rewrite(Model([text for text in german for _ in range(2)])).fault == "language"


def test_what_the_server_refuses_is_not_asked_again() -> None:
    model = Model([Refused("too long")])
    made = rewrite(model)
    assert (made.fault, len(model.asked)) == ("refused_by_server", 1)
    assert rejected(made).metadata["answers"] == []


def test_an_answer_that_was_cut_fails() -> None:
    assert rewrite(Model(CHUNKS, finished=False)).fault == "cut"


@pytest.mark.parametrize("text", ["", " \n\n "])
def test_nothing_is_asked_about_nothing(text: str) -> None:
    assert rewrite(Model([]), text).fault == "empty"
