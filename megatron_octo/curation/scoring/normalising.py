r"""Text as the classifier sees it: one line of words. 100 MB a second and core where a text is ASCII.

What MegaMath does before fastText (recipe notes, 3.1), in our own words: NFKC; tokens are runs of letters, digits and `_`, and runs of
other signs; lower case; a token of digits alone is `<NUM>`; one of more than 100 characters is left out; `-` and `_` part words; what
is not an ASCII letter or digit goes. So `It's 2,500 m-long: café_2` is `it s <NUM> <NUM> m long caf 2`. Theirs lets angle brackets
of the text through, which keeps `<NUM>` whole; ours writes `<NUM>` and keeps none.

Words stand apart by one or more spaces; fastText sees no difference.
"""

import functools
import re
import unicodedata
from collections.abc import Callable

#: Characters of a token; longer ones are codes and links.
MOST_CHARACTERS = 100
NUMBER = b"<NUM>"

#: Stand, one for one, for other letters and other digits of a token until it is known whether it is a number.
_LETTER, _DIGIT = "\xff", "\xfe"
#: From ASCII to lower case, spaces for what is no part of a token. `_` is one, but parts words later.
_TOKENS = bytes(
    ord(sign.lower()) if (sign.isascii() and (sign.isalnum() or sign == "_")) or sign in _LETTER + _DIGIT else 0x20
    for sign in map(chr, range(256))
)
_WORDS = bytes(0x20 if byte == ord("_") else byte for byte in range(256))
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
#: What fastText would take for a label, or for the end of the text.
_MARKS = re.compile(r"__label__|</s>")


def preparing(*, normalise: bool) -> Callable[[str], bytes]:
    """What makes a line for fastText, without its end, of a text."""
    return normalised if normalise else one_line


def one_line(text: str) -> bytes:
    """The text as it is, on one line, without fastText's own marks."""
    return _MARKS.sub(" ", text.replace("\n", " ")).encode(errors="replace")


def normalised(text: str) -> bytes:
    """The words of a text."""
    if not text.isascii():
        text = _NOT_ASCII.sub(_stand_ins, unicodedata.normalize("NFKC", text))
    tokens = text.encode("latin-1").translate(_TOKENS)
    # A pattern for numbers would be quicker where there are few, and take five times as long where there are many.
    words = [NUMBER if token.isdigit() else token for token in tokens.split()]
    if b"\xfe" in tokens or _has_long_token(tokens):
        words = [_word(token) for token in tokens.split()]
    return b" ".join(words).translate(_WORDS, b"\xff\xfe")


def _word(token: bytes) -> bytes:
    """Of any token, also those that are rare."""
    if token.replace(b"\xfe", b"0").isdigit():
        return NUMBER
    return token if len(token) <= MOST_CHARACTERS else b""


def _stand_ins(run: re.Match[str]) -> str:
    return _of_run(run[0])


@functools.lru_cache(1 << 14)
def _of_run(run: str) -> str:
    return "".join(map(_of_character, run))


def _of_character(character: str) -> str:
    if character.isdigit():
        return _DIGIT
    if character.isalnum():
        return "i" + _LETTER if character == "İ" else _LETTER  # the one whose lower case begins with an ASCII letter
    return " "


def _has_long_token(tokens: bytes) -> bool:
    """Goes from space to space in the longest steps that leave no room for such a token; a search takes ten times as long."""
    place, last = -1, len(tokens) - 1
    while last - place > MOST_CHARACTERS:
        found = tokens.rfind(b" ", place + 1, place + MOST_CHARACTERS + 2)
        if found < 0:
            return True
        place = found
    return False
