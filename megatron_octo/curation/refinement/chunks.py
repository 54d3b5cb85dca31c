"""Long documents in pieces that a language model can rewrite one by one; together they are the document, character for character."""

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator

#: Where a chunk may end, the best first: after the white space that ends a paragraph, a line, a sentence.
PLACES = (re.compile(r"\n[^\S\n]*\n\s*"), re.compile(r"\n\s*"), re.compile(r"[.!?][\"'”’)\]]*\s+"))
#: Where there is none of these.
WORD_END = re.compile(r"\s+")
#: A worse place is taken before a chunk gets shorter than this share of the longest.
SHORTEST_SHARE = 0.25
#: What opens and closes a stretch that should stay whole: LaTeX environments, displayed formulas, code.
MARK = re.compile(r"\\(?:begin|end)\{[^{}\n]{1,40}\}|\\\[|\\\]|\$\$|^ {0,3}(?:```|~~~)", re.MULTILINE)


def cut(text: str, max_characters: int) -> Iterator[str]:
    """Chunks of at most `max_characters`, all but the last at least a quarter as long; `"".join` of them is the text.

    They end where paragraphs do, or else lines, or sentences, outside of formulas and code as far as those are short enough.
    """
    whole = _Whole(text, longest=max_characters)
    start = 0
    while len(text) - start > max_characters:
        end = _end(text, start, max_characters, whole)
        yield text[start:end]
        start = end
    yield text[start:]


class _Whole:
    """Stretches of a text that should not be cut."""

    def __init__(self, text: str, *, longest: int) -> None:
        marks = [(found.start(), found.end(), found[0].strip()) for found in MARK.finditer(text)]
        ends = defaultdict(list)
        for _, end, mark in marks:
            ends[mark].append(end)
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end, mark in marks:
            closing = ends[_closing(mark)]
            nearest = bisect_right(closing, end)
            # A mark that nothing closes within a chunk's length opens nothing, or one stray `$$` would swallow the rest.
            if start >= self._last and nearest < len(closing) and closing[nearest] - start <= longest:
                self._starts.append(start)
                self._ends.append(closing[nearest])

    @property
    def _last(self) -> int:
        return self._ends[-1] if self._ends else 0

    def holds(self, place: int) -> bool:
        """Whether a cut at this place, before its character, goes through one of them."""
        index = bisect_left(self._starts, place) - 1
        return index >= 0 and place < self._ends[index]


def _closing(mark: str) -> str:
    if mark.startswith(r"\begin"):
        return mark.replace(r"\begin", r"\end", 1)
    # A closing mark closes itself where it comes twice, as `$$` does; `\]` is looked up in vain.
    return {r"\[": r"\]", "$$": "$$", "```": "```", "~~~": "~~~"}.get(mark, "")


def _end(text: str, start: int, max_characters: int, whole: _Whole) -> int:
    """Where the chunk that begins at `start` ends."""
    first, last = start + max(1, int(max_characters * SHORTEST_SHARE)), start + max_characters
    for places, through in ((PLACES, False), ((*PLACES, WORD_END), True)):
        for place in places:
            ends = [found.end() for found in place.finditer(text, first, last)]
            good = [end for end in ends if through or not whole.holds(end)]
            if good:
                return good[-1]
    return last
