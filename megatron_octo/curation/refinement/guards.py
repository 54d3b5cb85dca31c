"""What is wrong with a rewritten text, and what is only wrapped around it. Patterns are for English answers; all numbers are guesses.

What the original has itself is never held against an answer: a page about refusals may begin with "I cannot".
"""

import re
from collections.abc import Sequence

#: Longer answers hold more than an excuse.
REFUSAL_CHARACTERS = 600
#: Of the runs of five words that either text has, the share that both have; one word changed in a hundred leaves 0.9.
COPY_SHARE = 0.9
COPY_WORDS = 5
#: Lines of the prompt that are shorter may well occur in a text.
ECHO_WORDS = 6

_THINKING = re.compile(r"\A\s*<think>.*?(?:</think>|\Z)", re.DOTALL)
_FENCE = re.compile(r"\A(?P<fence>`{3,}|~{3,})[^\n`]*\n(?P<text>.*)\n(?P=fence)\Z", re.DOTALL)
#: Around the text in our prompt, and what models make of that.
_TAG = re.compile(r"\A<(?:\w+_)?(?:text|document|output)>|</(?:\w+_)?(?:text|document|output)>\Z")
_REWRITTEN = (
    r"(?:re-?written|refined|revised|cleaned(?:[- ]up)?|edited|polished|improved|rephrased|reworded|tidied(?:[- ]up)?|condensed|"
    r"restructured|reformatted|reorgani[sz]ed|extracted)"
)
#: `Sure! Here is the rewritten text:`, `**Refined version**`, `# Rewritten Text`; of the first line.
_PREAMBLE = re.compile(
    r"\A(?:(?:sure|certainly|of course|absolutely|okay|ok|yes)\b[,.!]?\s*)?"
    rf"(?:(?:here(?:['’]s| is| are)|below is|the following is)\b[^\n:]{{0,80}}?\b{_REWRITTEN}\b[^\n:]{{0,80}}:"
    rf"|[#*_\s]*(?:the )?{_REWRITTEN} (?:text|version|document|content|passage)[*_]*:?[*_]*(?=\n)"
    r"|(?:sure|certainly|of course|absolutely)[,.!][^\n:]{0,80}:(?=\s*\n))\s*(?:---+\s*\n)?",
    re.IGNORECASE,
)
#: `Let me know if ...`, `Note: I have removed ...`; of the last line.
_POSTSCRIPT = re.compile(
    r"[*_(\s]*(?:let me know if|i hope (?:this|that)|please let me know|feel free to ask|is there anything else"
    r"|(?:please )?note(?: that)?:? (?:that )?i(?:['’]ve| have)? (?:removed|kept|left|omitted|preserved|rewritten|rewrote))\b",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\A(?:(?:i['’]m|i am) (?:very |so )?sorry|sorry,|i apologi[sz]e|my apologies|unfortunately,? i\b|as an? (?:ai|(?:large )?language model)\b"
    r"|i (?:cannot|can['’]t|can not|am unable to|am not able to|won['’]t|will not|do not|don['’]t)"
    r" (?:assist|help|rewrite|refine|process|provide|comply|fulfil|complete|continue|access|generate|create|extract|see|have|find)"
    r"|i['’]m (?:unable|not able) to|please (?:provide|share|paste)"
    r"|(?:there is|there['’]s) (?:no|nothing|not enough) (?:text|content|information|to )"
    r"|(?:the|this) (?:provided |given |supplied )?(?:text|document|content|passage|input) "
    r"(?:does not|doesn['’]t|contains no|has no|is (?:empty|missing|incomplete|unclear|not)))",
    re.IGNORECASE,
)
#: Thousands separators are form; `1,000` is 1000.
_NUMBER = re.compile(r"\d+(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?")


def unwrapped(answer: str, original: str) -> str:
    """An answer without thinking, tags and code fence around all of it, without a line before it and one after it."""
    text = _THINKING.sub("", answer).strip()
    text = _without_postscript(_without(_PREAMBLE, text, original), original)
    text = _without(_TAG, text, original)
    return text if _FENCE.match(original.strip()) else _without_fence(text)


def unusable(text: str, original: str, instructions: Sequence[str]) -> str | None:
    """Why an unwrapped answer cannot be used at all: `empty`, `refusal` or `echo`; None where it can.

    Args:
        instructions: lines of the prompt that no answer should have (`telling_lines`).
    """
    if not text:
        return "empty"
    if is_refusal(text) and not is_refusal(original.strip()):
        return "refusal"
    plain = _plain(text)
    echoed = [line for line in instructions if line in plain]
    if echoed and not all(line in _plain(original) for line in echoed):
        return "echo"
    return None


def is_refusal(text: str) -> bool:
    """Whether a text is short and begins as excuses do."""
    return len(text) <= REFUSAL_CHARACTERS and _REFUSAL.match(text) is not None


def telling_lines(prompt: str) -> tuple[str, ...]:
    """Lines of a prompt that give it away in an answer."""
    return tuple(_plain(line) for line in prompt.splitlines() if len(line.split()) >= ECHO_WORDS)


def length_fault(text: str, original: str, *, min_ratio: float, max_ratio: float) -> str | None:
    """`too_short` or `too_long` against the original, in characters; None within bounds."""
    ratio = len(text) / max(1, len(original.strip()))
    return "too_short" if ratio < min_ratio else "too_long" if ratio > max_ratio else None


def is_copy(text: str, original: str) -> bool:
    """Whether a text is its original but for white space, case, and one word in a hundred."""
    words, original_words = text.casefold().split(), original.casefold().split()
    if min(len(words), len(original_words)) < COPY_WORDS:
        return words == original_words
    ours, theirs = _runs(words), _runs(original_words)
    return len(ours & theirs) >= COPY_SHARE * len(ours | theirs)


def numbers(text: str) -> set[str]:
    """The different numbers of a text."""
    return {found.replace(",", "") for found in _NUMBER.findall(text)}


def _without(pattern: re.Pattern[str], text: str, original: str) -> str:
    return pattern.sub(lambda found: found[0] if found[0].strip() in original else "", text).strip()


def _without_postscript(text: str, original: str) -> str:
    before, _, last = text.rpartition("\n")
    if _POSTSCRIPT.match(last) and last.strip() not in original:
        return before.rstrip().removesuffix("---").rstrip()
    return text


def _without_fence(text: str) -> str:
    found = _FENCE.match(text)
    if found is None:
        return text
    inner = (line.strip() for line in found["text"].splitlines())
    # Where the next fence is a bare one it closes the first: code, words and code again.
    second = next((line for line in inner if line.startswith(found["fence"])), None)
    return text if second == found["fence"] else found["text"].strip()


def _runs(words: Sequence[str]) -> set[tuple[str, ...]]:
    return set(zip(*(words[first:] for first in range(COPY_WORDS)), strict=False))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
