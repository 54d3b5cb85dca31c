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
    PLAIN_NUMBER,
    are_words,
    closed_boxes,
    extract_boxed,
    extract_unboxed,
    for_math_verify,
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
    #: Too large to be worth a process.
    GUARD = "guard"
    MATH_VERIFY = "math-verify"


@dataclass(frozen=True, kw_only=True)
class Grade:
    """A verdict on one response."""

    correct: bool
    #: The answer as it stood in the last box; None without one.
    boxed: str | None
    #: Closed boxes in the response.
    boxes: int
    timeout: bool
    method: Method


@dataclass(frozen=True)
class _Verdict:
    equal: bool
    method: Method
    timeout: bool = False


def grade(response: str, gold: str, *, lenient: bool = False) -> Grade:
    r"""Grade the last `\boxed{}` of a response; no box is wrong, or with `lenient` the answer that the prose states counts."""
    boxes = closed_boxes(response)
    boxed = response[slice(*boxes[-1])].strip() if boxes else None
    answer = extract_unboxed(response) if boxed is None and lenient else boxed
    verdict = _Verdict(False, Method.NO_BOX) if answer is None else _judge(gold, answer)
    return Grade(correct=verdict.equal, boxed=boxed, boxes=len(boxes), timeout=verdict.timeout, method=verdict.method)


def grade_all(responses: Sequence[str], golds: Sequence[str], *, lenient: bool = False) -> list[Grade]:
    """Grade many responses; those that need math-verify share the workers."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=THREADS) as threads:
        return list(threads.map(functools.partial(grade, lenient=lenient), responses, golds))


def equivalent(gold: str, answer: str) -> bool:
    """Whether two answers, taken out of their boxes, mean the same."""
    return _judge(gold, answer).equal


@functools.lru_cache(maxsize=100_000)
def _judge(gold: str, answer: str) -> _Verdict:
    """Cheapest test first. Cached: the samples of an RL group repeat one another."""
    if len(answer) > MAX_ANSWER_CHARS or answer.count(",") > MAX_ANSWER_ITEMS:
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


_EXPLODES = re.compile(
    r"\d{4,}!|!\s*\)?\s*!"  # factorials of large numbers and of factorials
    r"|\^\{?\(?-?\d{5,}"  # exponents of five digits and more
    r"|\^[^+\-=,]*\^[^+\-=,]*\^"  # towers of three
    r"|binom\{\d{5,}"
)


def _explodes(answer: str) -> bool:
    """Whether evaluating the answer may not end. Misses are caught by the workers' timeout."""
    return _EXPLODES.search(answer) is not None
