r"""What becomes of a row of each published data set: which rows stay, and how their text is put together.

From the paper (arXiv 2506.20512, section 2): OpenR1's question and thinking trace, in `<think>` tags, joined by a newline; chat as
`User:{}\nAssistant:{}` turns, of conversations with GPT-4-class answers only. UNCONFIRMED: which rows of OpenR1, AM-DeepSeek,
OpenMathInstruct-2 and NuminaMath it took, and how the latter three are joined. Here answers that their authors could not verify go,
a problem gives one document, and question and answer are joined by a newline throughout.

Columns are those that the authors publish, by their cards and the code of people who use them; "guess" marks what could not be looked up.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_octo.curation.config import Published
from megatron_octo.errors import CorpusError, listed

Row = Mapping[str, Any]

OPEN, CLOSE = "<think>", "</think>"
#: As `tokenize` writes messages: no space after the colon.
TURNS = {"user": "User:", "assistant": "Assistant:"}


class UnwantedError(Exception):
    """A row that does not become a document; the message is the reason, one word to be counted."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """Rows of one kind."""

    #: What tells them, and all that `text` looks at.
    columns: tuple[str, ...]
    #: Raises `UnwantedError`, and `CorpusError` for a column that holds something else than expected.
    text: Callable[[Row], str]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Where a corpus comes from and how its rows are read."""

    #: Ids on the Hugging Face hub; none where what is there has no text.
    hub: tuple[str, ...]
    #: Which of the data set's files, by a regular expression found in their paths; None takes all.
    files: str | None = None
    formats: tuple[Format, ...]
    #: Said where a row has none of the formats.
    hint: str = "give --input the files as their authors publish them"

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for form in self.formats for name in form.columns))


def text_of(recipe: Recipe, row: Row) -> str:
    """The document of a row.

    Raises:
        UnwantedError: the row is left out.
        CorpusError: it is no row of this data set.
    """
    for form in recipe.formats:
        if row.keys() >= set(form.columns):
            return form.text(row)
    expected = " or ".join(", ".join(form.columns) for form in recipe.formats)
    raise CorpusError(f"has the columns {listed(sorted(row))}; expected are {expected}; {recipe.hint}")


# Columns --------------------------------------------------------------------------------------------------------------


def _string(row: Row, column: str) -> str:
    """Raises `UnwantedError` for one without text."""
    value = row[column]
    if not isinstance(value, str | None):
        raise CorpusError(f"holds {type(value).__name__} in the column {column}; text is expected")
    if not value or value.isspace():
        raise UnwantedError(f"no_{column}")
    return value


def _list(row: Row, column: str) -> list[Any]:
    """Null counts as empty."""
    value = row[column]
    if not isinstance(value, list | None):
        raise CorpusError(f"holds {type(value).__name__} in the column {column}; a list is expected")
    return value or []


def _plain(row: Row) -> str:
    return _string(row, "text")


def _joined(*columns: str) -> Callable[[Row], str]:
    return lambda row: "\n".join(_string(row, column) for column in columns)


# Chains of thought ----------------------------------------------------------------------------------------------------


def _openr1(row: Row) -> str:
    """The first trace that is whole and right: by Math-Verify, else by the authors' judge, a Llama."""
    traces, whole = _list(row, "generations"), _list(row, "is_reasoning_complete")
    for judge in ("correctness_math_verify", "correctness_llama"):
        right = _list(row, judge)
        for trace, *verdicts in zip(
            traces, whole, right, strict=False
        ):  # the second judge was asked about some rows only
            if all(verdicts):
                return f"{_string(row, 'problem')}\n{_thought(trace)}"
    raise UnwantedError("no_verified_trace")


def _am_deepseek(row: Row) -> str:
    """An answer of DeepSeek-R1 that its authors verified, thinking first."""
    score = row["verify_score"]
    if not isinstance(score, int | float) or score < 1:  # of mathematics 0 or 1
        raise UnwantedError("not_verified")
    return f"{_string(row, 'question')}\n{_thought(_string(row, 'answer'))}"


def _thought(trace: str) -> str:
    """A trace with both tags: some servers leave out the first, being part of their prompt."""
    if CLOSE not in trace:
        raise UnwantedError("no_thinking")
    return trace if trace.lstrip().startswith(OPEN) else f"{OPEN}\n{trace}"


def _numinamath(row: Row) -> str:
    """Solutions that are there and, as its authors say, valid."""
    if row["problem_is_valid"] != "Yes" or row["solution_is_valid"] != "Yes":
        raise UnwantedError("not_valid")
    return _joined("problem", "solution")(row)


# Chat -----------------------------------------------------------------------------------------------------------------


def _wildchat(row: Row) -> str:
    """Conversations in English with GPT-4, such as `gpt-4-0314`; toxic ones go, whatever edition of the data set it is."""
    if not str(row["model"]).startswith("gpt-4"):
        raise UnwantedError("not_gpt4")
    if row["language"] != "English":
        raise UnwantedError("not_english")
    if row["toxic"]:
        raise UnwantedError("toxic")
    return _turns(_list(row, "conversation"))


def _chat(row: Row) -> str:
    return _turns(_list(row, "messages"))


def _turns(messages: Sequence[Any]) -> str:
    """`User:{}\nAssistant:{}` and so on, from the user's first word to the assistant's last."""
    if not all(isinstance(message, Mapping) and {"role", "content"} <= message.keys() for message in messages):
        raise CorpusError("holds a message that has no role and content")
    roles = [message["role"] for message in messages]
    if not messages or roles != ["user", "assistant"] * (len(roles) // 2):
        raise UnwantedError("not_in_turns")
    return "\n".join(f"{TURNS[message['role']]}{_string(message, 'content')}" for message in messages)


# Data sets ------------------------------------------------------------------------------------------------------------

_PLAIN = Format(columns=("text",), text=_plain)
_CHAT = Format(columns=("messages",), text=_chat)
_WILDCHAT = Format(columns=("conversation", "model", "language", "toxic"), text=_wildchat)

_MEGAMATH = ("LLM360/MegaMath",)
_TULU3 = "allenai/tulu-3-sft-personas-instruction-following"
_WILDCHAT_HUB = "allenai/WildChat-1M"
_ULTRACHAT = "HuggingFaceH4/ultrachat_200k"


def _megamath(folder: str) -> Recipe:
    return Recipe(hub=_MEGAMATH, files=rf"(^|/){re.escape(folder)}/", formats=(_PLAIN,))


RECIPES: dict[Published, Recipe] = {
    Published.DCLM_BASELINE: Recipe(hub=("mlfoundations/dclm-baseline-1.0",), formats=(_PLAIN,)),
    Published.MEGAMATH_WEB_PRO: _megamath("megamath-web-pro"),
    Published.MEGAMATH_QA: _megamath("megamath-qa"),
    Published.MEGAMATH_TEXT_CODE_BLOCK: _megamath("megamath-text-code-block"),
    Published.MEGAMATH_TRANSLATED_CODE: _megamath("megamath-translated-code"),
    # Published as ids of files of The Stack v2, whose contents its own terms keep elsewhere.
    Published.MEGAMATH_CODE: Recipe(
        hub=(),
        formats=(_PLAIN,),
        hint="megamath_code is published as ids of files of The Stack v2 (bigcode/the-stack-v2), without the code: fetch the contents "
        "as its card says, join them with the ids, and give --input JSONL or Parquet with the code in `text`",
    ),
    # Its folders data and extended (guess: their names); `all` is both once more.
    Published.OPENR1_MATH_220K: Recipe(
        hub=("open-r1/OpenR1-Math-220k",),
        files=r"^(?!(.*/)?all/[^/]*$)",
        formats=(
            Format(
                columns=(
                    "problem",
                    "generations",
                    "is_reasoning_complete",
                    "correctness_math_verify",
                    "correctness_llama",
                ),
                text=_openr1,
            ),
        ),
    ),
    # Of its categories mathematics, of its teachers DeepSeek-R1: math_r1_1pass.jsonl and so on.
    Published.AM_DEEPSEEK_DISTILLED_40M: Recipe(
        hub=("a-m-team/AM-DeepSeek-Distilled-40M",),
        files=r"math_r1_[^/]*$",
        formats=(Format(columns=("question", "answer", "verify_score"), text=_am_deepseek),),
    ),
    # train_1M, train_2M and train_5M are samples of train (guess: so their files are called).
    Published.OPENMATHINSTRUCT2: Recipe(
        hub=("nvidia/OpenMathInstruct-2",),
        files=r"(^|/)train-[^/]*$",
        formats=(Format(columns=("problem", "generated_solution"), text=_joined("problem", "generated_solution")),),
    ),
    Published.NUMINAMATH_1_5: Recipe(
        hub=("AI-MO/NuminaMath-1.5",),
        formats=(Format(columns=("problem", "solution", "problem_is_valid", "solution_is_valid"), text=_numinamath),),
    ),
    Published.TULU3_PERSONAS_IF: Recipe(hub=(_TULU3,), formats=(_CHAT,)),
    Published.WILDCHAT: Recipe(hub=(_WILDCHAT_HUB,), formats=(_WILDCHAT,)),
    # Its other splits hold the same conversations cut short, or held out (guess: files are called as splits).
    Published.ULTRACHAT_200K: Recipe(hub=(_ULTRACHAT,), files=r"(^|/)train_sft-[^/]*$", formats=(_CHAT,)),
    # The three above as one; their shares are those of their sizes (UNCONFIRMED).
    Published.INSTRUCTION: Recipe(
        hub=(_TULU3, _WILDCHAT_HUB, _ULTRACHAT),
        files=r"(^|/)train(_sft)?-[^/]*$",
        formats=(_WILDCHAT, _CHAT),
    ),
}
