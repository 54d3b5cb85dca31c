r"""Answers as text: taken out of responses, spelt one way, and rewritten where math-verify would read them wrongly."""

import re
from collections.abc import Sequence

#: Of the options of a multiple choice.
LETTERS = "ABCDEFGHIJ"

# Taking answers out ---------------------------------------------------------------------------------------------------

_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)


def closed_boxes(text: str) -> list[tuple[int, int]]:
    r"""Where the content of each closed `\boxed{}` starts and ends, in the order they open; one pass, whatever the text."""
    opened: list[tuple[int, bool]] = []
    closed: list[tuple[int, int]] = []
    for match in _BRACES.finditer(text):
        if match[0].endswith("{") and match[0] != r"\{":
            opened.append((match.end(), match[0] != "{"))
        elif match[0] == "}" and opened:
            start, is_box = opened.pop()
            if is_box:
                closed.append((start, match.start()))
    return sorted(closed)


def extract_boxed(text: str) -> str | None:
    r"""Content of the `\boxed{}` that opens last among the closed ones.

    >>> extract_boxed(r"\boxed{1} so \boxed{\frac{1}{2}} and \boxed{never closed")
    '\\frac{1}{2}'
    """
    boxes = closed_boxes(text)
    return text[slice(*boxes[-1])].strip() if boxes else None


_STATED = re.compile(r"answer\s*(?:is|:|=)\s*:?", re.IGNORECASE)
#: How Minerva's prompts end a response; what stands before it may have lines and full stops of its own.
_MINERVA_END = "I hope it is correct"
#: A sentence or a line ends an answer; the points of 3.5, of Mrs. Hilt, of Rs. 20 and of 3:30 p.m. on Monday do not.
_SENTENCE_END = re.compile(
    r"(?<!\b[ap]\.m)(?<!\bMrs)(?<!\bM[rs])(?<!\bDr)(?<!\bSt)(?<!\b[Rr]s)(?<!\b[Rr]s )\.(?=\s|\*|$)"
    r"|(?<=\b[ap]\.m)\.(?=\s+[A-Z])|\n"
)
_NUMBER_IN_TEXT = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+|[eE][+-]?\d+\b)?")


def extract_unboxed(text: str) -> str | None:
    """The answer that prose states; where it states none, the last number."""
    stated = extract_stated(text)
    return last_number(text) if stated is None else stated


def extract_stated(text: str) -> str | None:
    """What follows the last "answer is", up to the end of its sentence.

    >>> extract_stated("The answer is **C**. Check: 2 + 2 is 4.")
    'C'
    """
    end = text.rfind(_MINERVA_END)
    stated = [match.end() for match in _STATED.finditer(text, 0, end if end >= 0 else len(text))]
    if stated and end >= 0:
        return text[stated[-1] : end].strip().rstrip(".").strip(" *$`:\n")
    if stated:
        return _SENTENCE_END.split(text[stated[-1] :].lstrip(), maxsplit=1)[0].strip(" *$`:")
    return None


def last_number(text: str) -> str | None:
    """The last number in a text, as it stands there."""
    numbers = _NUMBER_IN_TEXT.findall(text)
    return numbers[-1].rstrip(",") if numbers else None


_MATH_SIGN = re.compile(r"[\\^_{}=+*/<>!|\[\]]|\d\s*[a-zA-Z]\b|[a-zA-Z]\d|-\s*[(\d]")

#: The stars of **5** km, and the stroke of km/h.
_BOLD = re.compile(r"(?<!\w)\*\*|\*\*(?!\w)")
_PER = re.compile(r"(?<=[a-z]{2})/(?=[a-z])")


def lone_number(text: str) -> str | None:
    """The one number of an answer in words, its unit left out; None for mathematics and for several numbers.

    >>> lone_number("about 1,200 km per day"), lone_number("2x"), lone_number("5 or 6")
    ('1,200', None, None)
    """
    text = text.replace(r"\$", "").replace("$", "").replace(r"\%", "%")
    text = _PER.sub(" per ", _BOLD.sub("", text))
    numbers = list(_NUMBER_IN_TEXT.finditer(text))
    if len(numbers) != 1:
        return None
    number = numbers[0]
    # Its place taken by a 0, as `2x`, `x2` and `-(2)` are mathematics.
    around = f"{text[: number.start()]}0{text[number.end() :]}"
    return None if _MATH_SIGN.search(around) else number[0].rstrip(",")


# One spelling ---------------------------------------------------------------------------------------------------------

_SPACING = re.compile(r"\\left\b|\\right\b|\\displaystyle\b|\\[,;:! ]|[\s~$]|(?<=\d)\{,\}(?=\d{3})")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\{([^{}]*)\}")
_UNIT = re.compile(r"\\?\s?\\(?:text|textrm|mathrm|mbox)\{[^{}]*\}(?:\^\{?\d\}?)?$")
_MEASURABLE = re.compile(r"[\d}i]$")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
#: `(B)`, `(B) 12`, `B. 12`, `B: 12`: the letter is the answer.
_CHOICE = re.compile(r"\(([A-J])\)(?!\s*[-+*/^=])|([A-J])[.:)]")
_HALF_DAY = re.compile(r"(?<=\d)([apAP])\.?[mM]\b\.?")
PLAIN_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)")
_WORD = re.compile(r"[^\W\d_]{4,}")


def normalise(answer: str) -> str:
    r"""One spelling for what differs in typesetting only: spaces, `\left`, `\dfrac`, `\text{}`, `$`, a closing period."""
    text = _TEXT_COMMAND.sub(r"\1", without_unit(answer.strip().rstrip(".")))
    # 50\% is 50, not 0.5: a gold answer in percent means the number beside the sign.
    text = _SPACING.sub("", text.replace(r"\$", "")).replace(r"\%", "").replace("%", "")
    text = text.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac").replace(r"^{\circ}", r"^\circ")
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    text = _HALF_DAY.sub(r"\1m", text)
    choice = _CHOICE.match(text)
    return ((choice[1] or choice[2]) if choice else text).casefold()


def without_unit(answer: str) -> str:
    r"""`12\text{ cm}^2` is 12: what is measured in is not compared, as golds come with and without."""
    rest = _UNIT.sub("", answer)
    return rest if _MEASURABLE.search(rest.rstrip()) else answer


def are_words(left: str, right: str) -> bool:
    """Whether both are words; math-verify would multiply their letters, in any order."""
    return bool(_WORD.fullmatch(left) and _WORD.fullmatch(right))


_PROSE = re.compile(r"[a-zA-Z]{4,}\s+[a-zA-Z]{4,}\s+[a-zA-Z]{3,}")


def is_prose(answer: str) -> bool:
    """Whether an answer has words in a row; math-verify would look for a product of all their letters."""
    return "\\" not in answer and _PROSE.search(answer) is not None


# Multiple choice ------------------------------------------------------------------------------------------------------

_DECORATION = re.compile(r"\\[,;:! ]|[*$~`]|\\(?:quad|qquad)\b")
_OPTION = r"(?:(?:option|choice)\s+)?"
_LETTER = re.compile(rf"{_OPTION}\(?\s*([a-zA-Z])\s*\)?[.:,;)]*", re.IGNORECASE)
#: `(B) 12`, `B. 12`, `b ) 12`; `B because ...` in capitals only, as `a` is a word.
_LETTER_FIRST = re.compile(
    rf"(?i:{_OPTION}(?:\(\s?([A-J])\s?\)|([A-J])\s?[.:)])(?!\s*[-+*/^=]))|([A-J]),?\s+(?=because\b|since\b|as\b|which\b)"
)
_OTHER_LETTER = re.compile(r"\(\s?[A-Ja-j]\s?\)|\b(?:or|and)\s+\(?[A-J]\b|\b[A-J]\s?\)")


def chosen_letter(answer: str, choices: Sequence[str]) -> str | None:
    r"""Which option an answer names: its letter in any usual spelling, or the whole text of exactly one option; else None.

    >>> chosen_letter(r"\textbf{(b)} 12 km", ["10 km", "12 km"]), chosen_letter("10 km", ["10 km", "12 km"])
    ('B', 'A')
    """
    text = _DECORATION.sub(" ", _TEXT_COMMAND.sub(r"\1", answer)).strip()
    letters = LETTERS[: len(choices)]
    alone = _LETTER.fullmatch(text)
    if alone and alone[1].upper() in letters:
        return alone[1].upper()
    written = normalise(answer)
    same = [letter for letter, choice in zip(letters, choices, strict=True) if normalise(choice) == written]
    if len(same) == 1:
        return same[0]
    first = _LETTER_FIRST.match(text)
    if first is None or _OTHER_LETTER.search(text, first.end()):  # "(A) or (B)" is no answer
        return None
    letter = (first[1] or first[2] or first[3]).upper()
    return letter if letter in letters else None


# For math-verify ------------------------------------------------------------------------------------------------------


def for_math_verify(gold: str, answer: str) -> tuple[str, str]:
    """Both rewritten, so that the same things are written the same way on both sides."""
    left, right = _rewritten(gold), _rewritten(answer)
    if _is_interval(left) != _is_interval(right):
        left, right = _as_interval(left) or left, _as_interval(right) or right
    elif _angle_sides(left, right):
        left, right = _in_radians(left), _in_radians(right)
    return left, right


_CONNECTIVE = re.compile(
    r"\\(?:text|textrm|mathrm|mbox)\{\s*(?:or|and)\s*\}|(?<=[\s\d])(?:or|and)(?=[\s\d-])|\\(?:lor|vee)\b"
)
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*(?:\^\s*\{?\\circ\}?|°|\\?\s*\\text\{\s*degrees?\s*\})")

#: `3 1/4`, of which math-verify reads the 1 only, and `4.5e33`; larger exponents are not worth evaluating.
_MIXED = re.compile(r"(?<![\d./])(\d+) +(\d+) ?/ ?(\d+)(?![\d./])")
_SCIENTIFIC = re.compile(r"(?<![\w.])(\d+\.?\d*)[eE]\+?(-?\d{1,3})(?![\w.])")


def _rewritten(answer: str) -> str:
    text = answer.strip().rstrip(".").replace(r"\$", "").replace("$", "").replace(r"\%", "").replace("%", "")
    if not _DEGREES.search(text):
        text = without_unit(text)
    text = _in_radians(text) if _TRIGONOMETRIC.search(text) else text
    text = _SCIENTIFIC.sub(r"\1\\times10^{\2}", _MIXED.sub(r"\1\\frac{\2}{\3}", text))
    return text if _INEQUALITY.search(text) else _CONNECTIVE.sub(",", text)


def _angle_sides(left: str, right: str) -> bool:
    """Degrees on one side and a multiple of pi on the other; degrees against a bare number stay as they are."""
    return any(_DEGREES.search(one) and r"\pi" in other for one, other in ((left, right), (right, left)))


def _in_radians(text: str) -> str:
    return _DEGREES.sub(r"\\frac{\1\\pi}{180}", text)


_INEQUALITY = re.compile(r"<|>|\\(?:le|ge|leq|geq|leqslant|geqslant|lt|gt)(?![a-z])|≤|≥")
_OPERATOR = r"\s*(<|>|\\(?:le|ge|leq|geq|leqslant|geqslant|lt|gt)(?![a-z])|≤|≥)\s*"
_BOUND = r"([^<>≤≥]+?)"
_ONE_SIDED = re.compile(rf"([a-zA-Z]){_OPERATOR}{_BOUND}")
_ONE_SIDED_TURNED = re.compile(rf"{_BOUND}{_OPERATOR}([a-zA-Z])")
_TWO_SIDED = re.compile(rf"{_BOUND}{_OPERATOR}[a-zA-Z]{_OPERATOR}{_BOUND}")
_LESS = ("<", r"\l", "≤")
_STRICT = ("<", ">", r"\lt", r"\gt")


def _is_interval(text: str) -> bool:
    r"""`[0,1)`, `(2,\infty)`, unions; `(1,2)` too, which is a point only where nobody compares it with an inequality."""
    return re.match(r"\s*(?:\\left\s*)?[\[(]", text) is not None and not _INEQUALITY.search(text)


def _as_interval(text: str) -> str | None:
    r"""`x<2 \text{ or } x>3` as `(-\infty,2)\cup(3,\infty)`; None where a part is no inequality in one letter."""
    parts = [_part_as_interval(part.strip()) for part in re.split(r"\\cup\b|" + _CONNECTIVE.pattern, text)]
    return r"\cup".join(part for part in parts if part) if all(parts) else None


def _part_as_interval(part: str) -> str | None:
    if match := _TWO_SIDED.fullmatch(part):
        low, first, second, high = match.groups()
        if first.startswith(_LESS) != second.startswith(_LESS):
            return None
        return _interval(low, first, second, high) if first.startswith(_LESS) else _interval(high, second, first, low)
    if match := _ONE_SIDED.fullmatch(part):
        _, operator, bound = match.groups()
        return _half_line(bound, operator, below=operator.startswith(_LESS))
    if match := _ONE_SIDED_TURNED.fullmatch(part):
        bound, operator, _ = match.groups()
        return _half_line(bound, operator, below=not operator.startswith(_LESS))
    return None


def _half_line(bound: str, operator: str, *, below: bool) -> str:
    return _interval(r"-\infty", "<", operator, bound) if below else _interval(bound, operator, "<", r"\infty")


def _interval(low: str, first: str, second: str, high: str) -> str:
    return f"{'(' if first in _STRICT else '['}{low},{high}{')' if second in _STRICT else ']'}"
