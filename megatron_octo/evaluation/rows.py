"""Rows of question files and of the hub, in which the same thing has many column names. Costs nothing."""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from megatron_octo.answer_text import LETTERS
from megatron_octo.errors import CorpusError, listed


@dataclass(frozen=True)
class Row:
    """One row; every look at a column takes the first of several names that is there and filled."""

    values: Mapping[str, Any]
    #: File and line, for errors.
    place: str
    #: Columns that were looked at.
    _read: set[str] = field(default_factory=set)

    def text(self, *names: str) -> str:
        """A column that must be there, as text. Raises `CorpusError`."""
        found = self.optional(*names)
        if found is None:
            raise CorpusError(
                f"{self.place} has no text or number in {_quoted(names)}; its columns are {listed(self.values)}"
            )
        return found

    def optional(self, *names: str) -> str | None:
        """As `text`, but None where all are missing or empty. 27.0 is "27", as people write it."""
        found = self._first(names)
        is_text = isinstance(found, str | int | float) and not isinstance(found, bool)
        return (_as_text(found) or None) if is_text else None

    def texts(self, *names: str) -> tuple[str, ...]:
        """A column of several texts; a single one is a tuple of one, none is empty."""
        found = self._first(names)
        if isinstance(found, list | tuple):
            return tuple(_as_text(each) for each in found)
        single = self.optional(*names)
        return () if single is None else (single,)

    def options(self, *names: str) -> tuple[str, ...]:
        """Options of a multiple choice, also where they are one text. Raises `CorpusError` where they are not two or more."""
        texts = self.texts(*names)
        options = split_options(texts[0]) if isinstance(self._first(names), str) else texts
        if not 2 <= len(options) <= len(LETTERS):
            raise CorpusError(
                f"{self.place} has {len(options)} options in {_quoted(names)}: {texts}; a multiple choice has 2 to "
                f"{len(LETTERS)}, as a list or as 'A) one B) two'"
            )
        return options

    def letter(self, *names: str, options: tuple[str, ...]) -> str:
        """The right option, in the file as a letter, as its text or, as in MMLU on the hub, its place from 0. Raises `CorpusError`."""
        given = self.text(*names)
        allowed = LETTERS[: len(options)]
        letter = given.strip("()").upper()
        if letter not in tuple(allowed) and isinstance(self._first(names), str) and options.count(given) == 1:
            return allowed[options.index(given)]
        if given.isdecimal():
            letter = allowed[int(given) : int(given) + 1]
        if len(letter) != 1 or letter not in allowed:
            raise CorpusError(
                f"{self.place} has '{given}' in {_quoted(names)}, which is none of its options; allowed: {', '.join(allowed)}"
            )
        return letter

    def rest(self) -> dict[str, Any]:
        """Columns that nobody looked at and that JSON can hold, such as an identifier or a subject."""
        return {
            name: value
            for name, value in self.values.items()
            if name not in self._read and isinstance(value, str | int | float | bool)
        }

    def _first(self, names: tuple[str, ...]) -> Any:
        self._read.update(names)
        return next((self.values[name] for name in names if self.values.get(name) not in (None, "")), None)


def _as_text(value: object) -> str:
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def _quoted(names: tuple[str, ...]) -> str:
    return " or ".join(f"'{name}'" for name in names)


_FIRST_OPTION = re.compile(r"\s*\(?([Aa])\s?([.)])\s")


def split_options(text: str) -> tuple[str, ...]:
    """Options that a file holds as one text; none where it does not begin with an A.

    >>> split_options("a ) 1 : 8 , b ) 12 hrs")
    ('1 : 8', '12 hrs')
    """
    if text.startswith("['"):  # a list that was printed, as in some rows of MathQA
        text = " , ".join(ast.literal_eval(text))
    first = _FIRST_OPTION.match(text)
    if first is None:
        return ()
    options = []
    for letter in LETTERS if first[1] == "A" else LETTERS.lower():
        # The same letter may be there twice: "a ) a ) 4 inches".
        marks = [rf"\(?{each}\s?\{first[2]}\s" for each in (letter, chr(ord(letter) + 1))]
        option = re.match(rf"\s*(?:{marks[0]})+(.*?)(?=[\s,]{marks[1]}|$)", text, re.DOTALL)
        if option is None:
            break
        options.append(option[1].strip().rstrip(",").strip())
        text = text[option.end() :].lstrip(", ")
    return tuple(options)
