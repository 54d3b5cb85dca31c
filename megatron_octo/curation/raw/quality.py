"""Rules that prose and mathematics keep, after Gopher's; each is a reason to drop a document. One pass, words by spaces.

Not datatrove's Gopher filters (0.10.1): their words come from spaCy, which datatrove does not bring, and their rules for words are one
word at a time in Python.
"""

from collections.abc import Sequence

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from megatron_octo.curation.config import Quality
from megatron_octo.curation.documents import Rejects
from megatron_octo.curation.parts import OURS

ELLIPSES = ("...", "…")


class OfQuality(BaseFilter):  # type: ignore[misc]
    name = "quality"
    type = OURS

    def __init__(self, rules: Quality, exclusion_writer: Rejects | None = None) -> None:
        super().__init__(exclusion_writer)
        self.rules = rules

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        reason = fault(doc.text, self.rules)
        return True if reason is None else (False, reason)


def fault(text: str, rules: Quality) -> str | None:
    """The first rule that a text breaks."""
    return _of_words(text.split(), rules) or _of_lines(text, rules)


def _of_words(words: Sequence[str], rules: Quality) -> str | None:
    count = len(words)
    if _below(count, rules.min_words):
        return "too_short"
    if _above(count, rules.max_words):
        return "too_long"
    mean = sum(map(len, words)) / max(1, count)
    if _below(mean, rules.min_mean_word_length):
        return "short_words"
    if _above(mean, rules.max_mean_word_length):
        return "long_words"
    if rules.min_share_with_letters is not None and _below(share_with_letters(words), rules.min_share_with_letters):
        return "few_letters"
    return None


def _of_lines(text: str, rules: Quality) -> str | None:
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    if rules.max_share_in_repeated_lines is not None and _above(
        share_repeated(lines), rules.max_share_in_repeated_lines
    ):
        return "repeated_lines"
    ellipses = sum(line.endswith(ELLIPSES) for line in lines) / max(1, len(lines))
    if _above(ellipses, rules.max_share_of_ellipses):
        return "ellipses"
    return None


def share_with_letters(words: Sequence[str]) -> float:
    """Of words, the share that has a letter of any script."""
    # Most words are letters alone or begin with one: told without going through them.
    having = sum(word.isalpha() or word[0].isalpha() or any(map(str.isalpha, word)) for word in words)
    return having / max(1, len(words))


def share_repeated(lines: Sequence[str]) -> float:
    """Of the characters, the share in lines that occur before."""
    characters = sum(map(len, lines))
    return 1 - sum(map(len, set(lines))) / characters if characters else 0.0


def _below(value: float, least: float | None) -> bool:
    return least is not None and value < least


def _above(value: float, most: float | None) -> bool:
    return most is not None and value > most
