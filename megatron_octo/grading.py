r"""Is this answer right? The one judge of RL rewards and evaluation: the last `\boxed{}` against the gold answer.

Equal text after a cheap normalisation, and plain numbers, are settled on the spot (about 10 us). Everything else goes to
math-verify (about 3 ms) in worker processes that are killed after `HARD_TIMEOUT_SECONDS`: a model in training writes
`9^{9^{9^9}}` sooner or later, and sympy never comes back from it. The workers start with the first answer that needs them,
so a task with integer answers never starts a process. Usable from threads; nothing here raises for any text.
"""

import atexit
import concurrent.futures
import functools
import logging
import multiprocessing
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum

import math_verify
import pebble

HARD_TIMEOUT_SECONDS = 6.0
#: Longer answers are wrong without a look: the longest gold answer of MATH has 159 characters.
MAX_ANSWER_CHARS = 1_000
MAX_ANSWER_ITEMS = 200


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
    #: Content of the last box; None without one.
    boxed: str | None
    timeout: bool
    method: Method


@dataclass(frozen=True)
class _Verdict:
    equal: bool
    method: Method
    timeout: bool = False


def grade(response: str, gold: str) -> Grade:
    r"""Grade the last `\boxed{}` of a response; no box is wrong."""
    boxed = extract_boxed(response)
    if boxed is None:
        return Grade(correct=False, boxed=None, timeout=False, method=Method.NO_BOX)
    verdict = _judge(gold, boxed)
    return Grade(correct=verdict.equal, boxed=boxed, timeout=verdict.timeout, method=verdict.method)


def grade_all(responses: Sequence[str], golds: Sequence[str]) -> list[Grade]:
    """Grade many responses; those that need math-verify share the workers."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=_num_workers()) as threads:
        return list(threads.map(grade, responses, golds))


def equivalent(gold: str, answer: str) -> bool:
    """Whether two answers, taken out of their boxes, mean the same."""
    return _judge(gold, answer).equal


_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)


def extract_boxed(text: str) -> str | None:
    r"""Content of the `\boxed{}` that opens last among the closed ones; one pass, whatever the text.

    >>> extract_boxed(r"\boxed{1} so \boxed{\frac{1}{2}} and \boxed{never closed")
    '\\frac{1}{2}'
    """
    opened: list[tuple[int, bool]] = []
    last: tuple[int, int] | None = None
    for match in _BRACES.finditer(text):
        if match[0].endswith("{") and match[0] != r"\{":
            opened.append((match.end(), match[0] != "{"))
        elif match[0] == "}" and opened:
            start, is_box = opened.pop()
            if is_box and (last is None or start > last[0]):
                last = (start, match.start())
    return text[slice(*last)].strip() if last else None


# Cheap verdicts -------------------------------------------------------------------------------------------------------

_SPACING = re.compile(r"\\left\b|\\right\b|\\displaystyle\b|\\[,;:! ]|[\s~$]|(?<=\d)\{,\}(?=\d{3})")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\{([^{}]*)\}")
_UNIT_AFTER_NUMBER = re.compile(r"(?<=\d)\\?\s*\\(?:text|mathrm|mbox)\{[^{}]*\}$")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
#: `(B)` and `(B) 12`: the letter is the answer.
_CHOICE = re.compile(r"\(([A-J])\)(?!\s*[-+*/^=])")
_PLAIN_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)")


def normalise(answer: str) -> str:
    r"""One spelling for what differs in typesetting only: spaces, `\left`, `\dfrac`, `\text{}`, `$`, a closing period."""
    text = _UNIT_AFTER_NUMBER.sub("", answer.strip().rstrip("."))
    text = _TEXT_COMMAND.sub(r"\1", text)
    # 50\% is 50, not 0.5: a gold answer in percent means the number beside the sign.
    text = _SPACING.sub("", text.replace(r"\$", "")).replace(r"\%", "").replace("%", "")
    text = text.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac").replace(r"^{\circ}", r"^\circ")
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    choice = _CHOICE.match(text)
    return (choice[1] if choice else text).casefold()


@functools.lru_cache(maxsize=100_000)
def _judge(gold: str, answer: str) -> _Verdict:
    """Cheapest test first. Cached: the samples of an RL group repeat one another."""
    if len(answer) > MAX_ANSWER_CHARS or answer.count(",") > MAX_ANSWER_ITEMS:
        return _Verdict(False, Method.GUARD)
    left, right = normalise(gold), normalise(answer)
    if left == right or not right:
        return _Verdict(left == right, Method.TEXT)
    if _PLAIN_NUMBER.fullmatch(left) and _PLAIN_NUMBER.fullmatch(right):
        return _Verdict(Decimal(left) == Decimal(right), Method.NUMBER)
    if _explodes(right):
        return _Verdict(False, Method.GUARD)
    return _math_verify(gold, answer)


_EXPLODES = re.compile(
    r"\d{4,}!|!\s*\)?\s*!"  # factorials of large numbers and of factorials
    r"|\^\{?\(?-?\d{5,}"  # exponents of five digits and more
    r"|\^[^+\-=,]*\^[^+\-=,]*\^"  # towers of three
    r"|binom\{\d{5,}"
)


def _explodes(answer: str) -> bool:
    """Whether evaluating the answer may not end. Misses are caught by the workers' timeout."""
    return _EXPLODES.search(answer) is not None


# math-verify in processes that can be killed --------------------------------------------------------------------------

_lock = threading.Lock()


def _num_workers() -> int:
    """Half the processors, at most eight: graders run beside the model."""
    return max(1, min(8, (os.cpu_count() or 1) // 2))


@functools.cache
def _start_workers() -> pebble.ProcessPool:
    # Not fork: the caller has threads (torch, Ray). Each worker imports the caller's __main__ module again, so mains that
    # grade keep their heavy imports behind a function.
    pool = pebble.ProcessPool(max_workers=_num_workers(), context=multiprocessing.get_context("forkserver"))
    atexit.register(_stop, pool)
    return pool


def _stop(pool: pebble.ProcessPool) -> None:
    pool.stop()
    pool.join()


def _math_verify(gold: str, answer: str) -> _Verdict:
    with _lock:
        pool = _start_workers()
    try:
        equal = pool.schedule(_verify_in_worker, args=(gold, answer), timeout=HARD_TIMEOUT_SECONDS).result()
    except concurrent.futures.TimeoutError:
        return _Verdict(False, Method.MATH_VERIFY, timeout=True)
    except Exception as error:  # noqa: BLE001 - a worker that died of an answer, or an answer sympy chokes on
        logging.getLogger(__name__).debug("math-verify on %r: %r", answer, error)
        return _Verdict(False, Method.MATH_VERIFY)
    return _Verdict(equal, Method.MATH_VERIFY)


def _verify_in_worker(gold: str, answer: str) -> bool:
    # math-verify's own timeouts warn when they are off; ours kills the process.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    # Both in boxes: raw gold strings are parsed as prose, and half of them wrongly.
    parsed = [math_verify.parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in (gold, answer)]
    return bool(math_verify.verify(*parsed, timeout_seconds=None))
