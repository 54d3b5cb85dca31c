r"""What a response is worth: a verdict on its last `\boxed{}`, shaped by `Reward`, or a function of the user's own.

The paper's scripts give +1 for a right answer and -1 for everything else: wrong, no box, not finished (the released code,
`math_verifier.py`). `Score.correct` stays the plain verdict, whatever the reward's shape.
"""

import concurrent.futures
import importlib
import importlib.util
import inspect
import math
import numbers
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from megatron_octo.errors import ConfigError, OctoError, listed, nearest
from megatron_octo.grading import THREADS, Grade, grade
from megatron_octo.rl.config import Extraction, Reward, RewardForm

#: Characters of the pieces that `repetition` compares.
PIECE_CHARS = 20
#: Something of five characters or more, five times in a row [v3.repeatpenalty]. Units are bounded by 200 characters: the
#: published pattern has no bound, and takes the square of the length on every long response.
_REPEATED = re.compile(r"(.{5,200}?)\1{4,}", re.DOTALL)
#: How a user's function is called.
SIGNATURE = "def reward(response: str, answer: str, *, correct: bool, tokens: int, finished: bool) -> float"
_KEYWORDS = ("correct", "tokens", "finished")


@dataclass(frozen=True, kw_only=True)
class Score:
    """One response's worth and what it rests on."""

    correct: bool
    reward: float
    #: Closed boxes in the response.
    boxes: int
    #: Share of its 20-grams of characters that occurred before in it, 0 to 1.
    repetition: float
    #: The grader gave up on it.
    timeout: bool


class Scorer:
    """Scores responses, from any thread."""

    def __init__(self, reward: Reward) -> None:
        """Raises `ConfigError` where the user's function cannot be loaded or called as `SIGNATURE` says."""
        self._reward = reward
        self._lenient = reward.extraction is Extraction.LENIENT
        self._function = None if reward.function is None else _load(reward.function)

    def __call__(self, response: str, answer: str, *, tokens: int, finished: bool, cap: int) -> Score:
        """Score a response of `tokens` tokens of at most `cap`. Raises `OctoError` where a user's function fails, nothing else."""
        verdict = grade(response, answer, lenient=self._lenient)
        if self._function is None:
            worth = _FORMS[self._reward.form](verdict, response)
        else:
            worth = self._call(response, answer, correct=verdict.correct, tokens=tokens, finished=finished)
        return Score(
            correct=verdict.correct,
            reward=worth - self._overlong(tokens, cap),
            boxes=verdict.boxes,
            repetition=repetition(response),
            timeout=verdict.timeout,
        )

    def _call(self, response: str, answer: str, **about: Any) -> float:
        assert self._function is not None
        said = f"reward.function '{self._reward.function}', called with a response that starts {response[:80]!r},"
        try:
            worth = self._function(response, answer, **about)
        except Exception as error:
            raise OctoError(f"{said} raised {error!r}; it must give a number for every text") from error
        if not isinstance(worth, numbers.Real) or not math.isfinite(worth):
            raise OctoError(f"{said} gave {worth!r}; it must give a finite number")
        return float(worth)

    def _overlong(self, tokens: int, cap: int) -> float:
        """DAPO (arXiv 2503.14476), equation 13, as what is taken off: 0 up to `cap - buffer`, then rising to the penalty."""
        buffer = self._reward.overlong_buffer_tokens
        if buffer is None:
            return 0.0
        over = min(max(tokens - (cap - buffer), 0), buffer)
        return self._reward.overlong_penalty * over / buffer


def score_all(
    scorer: Scorer,
    responses: Sequence[str],
    answers: Sequence[str],
    *,
    tokens: Sequence[int],
    finished: Sequence[bool],
    cap: int,
) -> list[Score]:
    """Score many responses in threads: those that need math-verify wait for it together."""

    def score(response: str, answer: str, length: int, ended: bool) -> Score:
        return scorer(response, answer, tokens=length, finished=ended, cap=cap)

    with concurrent.futures.ThreadPoolExecutor(max_workers=THREADS) as threads:
        return list(threads.map(score, responses, answers, tokens, finished))


def file_of(function: str) -> Path | None:
    """The file a user's function is in; None where it is of a module."""
    where = function.rpartition(":")[0]
    return Path(where) if where.endswith(".py") else None


def with_whole_path(reward: Reward) -> Reward:
    """The same for a process with another working directory: a file of the user's own is named from the root."""
    file = None if reward.function is None else file_of(reward.function)
    if file is None:
        return reward
    assert reward.function is not None
    return replace(reward, function=f"{file.resolve()}:{reward.function.rpartition(':')[2]}")


def repetition(text: str) -> float:
    """Share of its pieces of 20 characters that occurred before in it; 0 for shorter texts.

    >>> repetition("ab" * 20)
    0.9047619047619048
    """
    pieces = len(text) - PIECE_CHARS + 1
    if pieces < 1:
        return 0.0
    return 1 - len({text[at : at + PIECE_CHARS] for at in range(pieces)}) / pieces


# The forms ------------------------------------------------------------------------------------------------------------


def _sign(verdict: Grade, _: str) -> float:
    return 1.0 if verdict.correct else -1.0


def _format(verdict: Grade, response: str) -> float:
    if verdict.boxes != 1 or _repeats(response):
        return -1.0
    return 1.0 if verdict.correct else -0.5


def _repetition(verdict: Grade, response: str) -> float:
    return -2.0 if _repeats(response) else _sign(verdict, response)


def _one_box(verdict: Grade, response: str) -> float:
    return -2.0 if verdict.boxes > 1 else _repetition(verdict, response)


_FORMS: dict[RewardForm, Callable[[Grade, str], float]] = {
    RewardForm.SIGN: _sign,
    RewardForm.FORMAT: _format,
    RewardForm.REPETITION: _repetition,
    RewardForm.ONE_BOX: _one_box,
}


def _repeats(response: str) -> bool:
    return _REPEATED.search(response) is not None


# The user's own -------------------------------------------------------------------------------------------------------


def _load(function: str) -> Callable[..., Any]:
    where, _, name = function.rpartition(":")
    module = _module(function, where)
    found: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(found):
        names = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        raise ConfigError(f"reward.function '{function}': no function '{name}' in {where}{nearest(name, names)}")
    _require_signature(function, found)
    return found


def _module(function: str, where: str) -> ModuleType:
    try:
        file = file_of(function)
        return importlib.import_module(where) if file is None else _from_file(file)
    except Exception as error:
        raise ConfigError(f"reward.function '{function}': importing {where} failed with {error!r}") from error


def _from_file(file: Path) -> ModuleType:
    # A name that no other module has: the file may be called math.py.
    spec = importlib.util.spec_from_file_location(f"reward of {file}", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look for their module there
    spec.loader.exec_module(module)
    return module


def _require_signature(function: str, found: Callable[..., Any]) -> None:
    try:
        inspect.signature(found).bind("response", "answer", **dict.fromkeys(_KEYWORDS))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"reward.function '{function}' cannot be called with a response, an answer, {listed(_KEYWORDS)} ({error}); "
            f"write it as {SIGNATURE}"
        ) from error
    if inspect.iscoroutinefunction(found):
        raise ConfigError(f"reward.function '{function}' is async; write it as {SIGNATURE}")
