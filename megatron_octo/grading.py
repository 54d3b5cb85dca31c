r"""Is this answer right? The one judge of RL rewards and evaluation: the last `\boxed{}` against the gold answer.

Equal text after a cheap normalisation, and plain numbers, are settled on the spot (about 10 us). Everything else goes to
math-verify (about 3 ms) in worker processes that are ended after three seconds: a model in training writes `9^{9^{9^9}}` sooner
or later, and sympy never comes back from it. Nothing takes longer than `grading_pool.HARD_TIMEOUT_SECONDS`. The workers start
with the first answer that needs them, so a task with integer answers never starts a process. Usable from threads; nothing here
raises for any text.
"""

import concurrent.futures
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum

from megatron_octo import grading_pool
from megatron_octo.answer_text import (
    LETTERS,
    PLAIN_NUMBER,
    are_words,
    chosen_letter,
    closed_boxes,
    extract_boxed,
    extract_stated,
    extract_unboxed,
    for_math_verify,
    is_prose,
    lone_number,
    normalise,
)

__all__ = ["Grade", "Method", "equivalent", "extract_boxed", "grade", "grade_all"]

#: Longer answers are wrong without a look: the longest gold answer of MATH has 159 characters.
MAX_ANSWER_CHARS = 1_000
MAX_ANSWER_ITEMS = 200
#: Answers that are waited for together; how many are looked at together is the pool's affair.
THREADS = 16


class Method(Enum):
    """What settled a verdict."""

    NO_BOX = "no-box"
    TEXT = "text"
    NUMBER = "number"
    #: The letter of an option, or its text.
    CHOICE = "choice"
    #: Too large to be worth a process.
    GUARD = "guard"
    MATH_VERIFY = "math-verify"


@dataclass(frozen=True, kw_only=True)
class Grade:
    """A verdict on one response."""

    correct: bool
    #: The answer as it stood in the last box; None without one.
    boxed: str | None
    #: What was compared: `boxed`, or with `lenient` what the prose states.
    extracted: str | None
    #: Closed boxes in the response.
    boxes: int
    timeout: bool
    method: Method


@dataclass(frozen=True)
class _Verdict:
    equal: bool
    method: Method
    timeout: bool = False


def grade(response: str, gold: str, *, lenient: bool = False, choices: Sequence[str] = ()) -> Grade:
    r"""Grade the last `\boxed{}` of a response; no box is wrong, or with `lenient` the answer that the prose states counts.

    With the `choices` of a multiple choice, `gold` is the letter of the right one; the letter counts in any usual spelling,
    and so does what equals the right option and no other.
    """
    boxes = closed_boxes(response)
    boxed = response[slice(*boxes[-1])].strip() if boxes else None
    answer = _stated(response, choices) if boxed is None and lenient else boxed
    if answer is None:
        verdict = _Verdict(False, Method.NO_BOX)
    elif choices:
        verdict = _judge_choice(gold, answer, tuple(choices))
    else:
        verdict = _judge_prose(gold, answer) if lenient else _judge(gold, answer)
    return Grade(
        correct=verdict.equal,
        boxed=boxed,
        extracted=answer,
        boxes=len(boxes),
        timeout=verdict.timeout,
        method=verdict.method,
    )


def _stated(response: str, choices: Sequence[str]) -> str | None:
    """The last number of a response chooses no option."""
    return extract_stated(response) if choices else extract_unboxed(response)


def grade_all(
    responses: Sequence[str],
    golds: Sequence[str],
    *,
    lenient: bool = False,
    choices: Sequence[Sequence[str]] | None = None,
) -> list[Grade]:
    """Grade many responses, `choices` being those of each; those that need math-verify share the workers."""
    options = [()] * len(golds) if choices is None else choices

    def judge(response: str, gold: str, options: Sequence[str]) -> Grade:
        return grade(response, gold, lenient=lenient, choices=options)

    with concurrent.futures.ThreadPoolExecutor(max_workers=THREADS) as threads:
        return list(threads.map(judge, responses, golds, options))


def equivalent(gold: str, answer: str) -> bool:
    """Whether two answers, taken out of their boxes, mean the same."""
    return _judge(gold, answer).equal


@functools.lru_cache(maxsize=100_000)
def _judge(gold: str, answer: str) -> _Verdict:
    """Cheapest test first. Cached: the samples of an RL group repeat one another."""
    if _too_large(answer):
        return _Verdict(False, Method.GUARD)
    left, right = normalise(gold), normalise(answer)
    if left == right or not right or are_words(left, right):
        return _Verdict(left == right, Method.TEXT)
    if PLAIN_NUMBER.fullmatch(left) and PLAIN_NUMBER.fullmatch(right):
        return _Verdict(Decimal(left) == Decimal(right), Method.NUMBER)
    if _explodes(right):
        return _Verdict(False, Method.GUARD)
    verdict = grading_pool.verify(*for_math_verify(gold, answer))
    return _Verdict(verdict.equal, Method.MATH_VERIFY, verdict.timeout)


def _judge_prose(gold: str, answer: str) -> _Verdict:
    """As `_judge`, but 18 also equals "18 dollars per day"; "February 3rd" is not "March 3rd"."""
    left, right = lone_number(gold), lone_number(answer)
    if left is None or right is None or (left != gold and right != answer):
        return _judge(gold, answer)
    return _judge(left, right)


def _judge_choice(gold: str, answer: str, choices: tuple[str, ...]) -> _Verdict:
    """A letter or an option's text, else mathematics that equals the right option and no other."""
    if _too_large(answer):
        return _Verdict(False, Method.GUARD)
    letter = chosen_letter(answer, choices)
    if letter is not None:
        return _Verdict(letter == gold, Method.CHOICE)
    if is_prose(answer):
        return _Verdict(False, Method.CHOICE)
    right = LETTERS.index(gold)
    verdict = _judge_prose(choices[right], answer)
    others = (choice for place, choice in enumerate(choices) if place != right)
    if verdict.equal and any(_judge_prose(other, answer).equal for other in others):
        return _Verdict(False, Method.CHOICE)
    return verdict


_EXPLODES = re.compile(
    r"\d{4,}!|!\s*\)?\s*!"  # factorials of large numbers and of factorials
    r"|\^\{?\(?-?\d{5,}"  # exponents of five digits and more
    r"|\^[^+\-=,]*\^[^+\-=,]*\^"  # towers of three
    r"|binom\{\d{5,}"
)


def _too_large(answer: str) -> bool:
    return len(answer) > MAX_ANSWER_CHARS or answer.count(",") > MAX_ANSWER_ITEMS


def _explodes(answer: str) -> bool:
    """Whether evaluating the answer may not end. Misses are caught by the workers' timeout."""
    return _EXPLODES.search(answer) is not None
