r"""Which questions stand in which documents: runs of the same words in both. For overlap checks and for decontamination.

Text becomes words as in GPT-3's overlap study [arXiv 2005.14165, appendix C]: lower case, without punctuation, whatever the
spacing. Anything but letters and digits parts words, LaTeX's signs too: `$(0,3)$` and `\( (0, 3) \)` are both `0 3`, `\frac{1}{2}`
is `frac 1 2`. A question is found in a document that has `ngram` of its words in a row. A question of fewer words must be there as
a whole; one of fewer than `FEWEST_WORDS` tells nothing and is never found.

Documents go through numpy many at a time, at 30 to 70 MB of text a second and core (benchmarks/overlap.py): a hash of each word, of
these a rolling hash of each n-gram, a table that turns nearly all of them away. What is left is compared word by word, so that no
collision of hashes counts. Hashes are the same in every process. Memory: about 30 bytes per word of the questions.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

#: GPT-3's shortest n-gram; shorter ones are met by chance.
FEWEST_WORDS = 8
#: Of a word; longer ones that begin alike have one hash, and are told apart when words are compared.
HASHED_BYTES = 64
#: Entries of the table that turns n-grams away, per n-gram in it: one in sixteen is let through for nothing.
TABLE_ENTRIES = 16

#: From ASCII to lower case, spaces for what is neither letter nor digit; bytes of other characters stay.
_ASCII = bytes(byte if byte > 127 else ord(chr(byte).lower()) if chr(byte).isalnum() else 0x20 for byte in range(256))
_OTHER_SIGNS = re.compile(r"[^\x00-\x7f\w]+")
_SPACE = 0x20
#: The first `i` of eight bytes, little endian.
_FIRST_BYTES = np.array([(1 << 8 * count) - 1 for count in range(9)], np.uint64)
#: Odd, with bits that look random: the golden ratio's, and two of the mixer of splitmix64.
_BASE, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_INVERSE_BASE = pow(_BASE, -1, 1 << 64)

Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Match:
    """A question that shares words with a document."""

    #: Places in what was given.
    document: int
    question: int
    #: The words, from the first shared n-gram on for as long as both go on alike.
    text: str


class Index:
    """The n-grams of questions.

    >>> index = Index(["What is the sum of the first ten odd numbers?"], ngram=13)
    >>> index.find(["Q: what is the sum of the first TEN odd numbers"])
    [Match(document=0, question=0, text='what is the sum of the first ten odd numbers')]
    """

    def __init__(self, questions: Sequence[str], *, ngram: int) -> None:
        assert ngram > 0
        self._ngram = ngram
        self._words = [normalised(text).split() for text in questions]
        fewest = min(FEWEST_WORDS, ngram)
        lengths = np.array([len(words) for words in self._words], np.int64)
        #: Questions that tell nothing, by their places.
        self.too_short: tuple[int, ...] = tuple(np.flatnonzero(lengths < fewest).tolist())
        text = _Text.of(questions)
        # Those that must be there as a whole are looked for by their first words.
        short = np.flatnonzero((fewest <= lengths) & (lengths < ngram))
        firsts = _Grams.of(text, width=fewest, at=text.first_words[short])
        self._grams = [_Grams.of(text, width=ngram, at=np.arange(text.num_words)), firsts]

    def find(self, documents: Sequence[str]) -> list[Match]:
        """What of the questions stands in which documents; best asked about megabytes of text at a time."""
        text = _Text.of(documents)
        found: dict[tuple[int, int], Match] = {}
        for grams in self._grams:
            for document, word, question, place in grams.find(text):
                key = (document, question)
                if key not in found and (words := self._shared(text, word, question, place)):
                    found[key] = Match(document=document, question=question, text=b" ".join(words).decode())
        return [found[key] for key in sorted(found)]

    def _shared(self, text: "_Text", word: int, question: int, place: int) -> list[bytes]:
        """The words that both have from there on; none where they are too few."""
        asked = self._words[question]
        last = text.last_word_of(word)
        count = 0
        while place + count < len(asked) and word + count <= last and text.word(word + count) == asked[place + count]:
            count += 1
        return asked[place : place + count] if count >= min(self._ngram, len(asked)) else []


def words(text: str) -> list[str]:
    """`'Let $x_1=\\tfrac12$!' -> ['let', 'x', '1', 'tfrac12']`."""
    return normalised(text).decode().split()


def normalised(text: str) -> bytes:
    """UTF-8 of the words, with one or more spaces between them."""
    if not text.isascii():
        text = _OTHER_SIGNS.sub(" ", unicodedata.normalize("NFKC", text).lower())
    return text.encode().translate(_ASCII)


def shingles(documents: Sequence[str], *, ngram: int) -> tuple[Hashes, Numbers]:
    """Hashes of every document's n-grams, document after document, and where each document's begin and the last one's end.

    A document of fewer words has one n-gram, all of them; so every document has at least one.
    """
    text = _Text.of(documents)
    firsts = np.append(text.first_words, text.num_words)
    counts = np.maximum(np.diff(firsts) - ngram + 1, 1)
    starts = np.concatenate([[0], np.cumsum(counts)])
    words = np.arange(starts[-1]) + np.repeat(firsts[:-1] - starts[:-1], counts)
    stops = np.minimum(words + ngram, np.repeat(firsts[1:], counts))
    return _mixed(text.hashes_between(words, stops)), starts


@dataclass(frozen=True)
class _Text:
    """The words of some documents, one after the other."""

    #: Begins and ends with spaces, of which there are at least eight at the end.
    data: bytes
    #: Of each word in `data`.
    starts: Numbers
    ends: Numbers
    #: Where each document ends in `data`.
    document_ends: Numbers

    @classmethod
    def of(cls, documents: Sequence[str]) -> "_Text":
        parts = [normalised(document) for document in documents]
        data = b" ".join([b"", *parts, b" " * 8])
        is_letter = np.frombuffer(data, np.uint8) != _SPACE
        edges = np.flatnonzero(is_letter[1:] != is_letter[:-1]) + 1
        lengths = np.array([len(part) + 1 for part in parts], np.int64)
        return cls(data, edges[::2], edges[1::2], np.cumsum(lengths))

    @property
    def num_words(self) -> int:
        return len(self.starts)

    @cached_property
    def first_words(self) -> Numbers:
        """The number of words before each document."""
        return np.searchsorted(self.starts, np.concatenate([[0], self.document_ends[:-1]]))

    def word(self, number: int) -> bytes:
        return self.data[self.starts[number] : self.ends[number]]

    def documents_of(self, words: Numbers) -> Numbers:
        return np.searchsorted(self.document_ends, self.starts[words], side="right")

    def last_word_of(self, word: int) -> int:
        """The last word of the document that a word is in."""
        document = self.documents_of(np.array([word]))
        return int(np.searchsorted(self.starts, self.document_ends[document])[0]) - 1

    @cached_property
    def sums(self) -> Hashes:
        """Of the first i words, their hashes times powers of the base."""
        sums = np.zeros(self.num_words + 1, np.uint64)
        np.cumsum(self._word_hashes() * _powers(_BASE, self.num_words), out=sums[1:])
        return sums

    def gram_hashes(self, width: int) -> Hashes:
        """Of the `width` words from each word on, also where the next document begins among them."""
        if self.num_words < width:
            return np.zeros(0, np.uint64)
        sums = self.sums[width:] - self.sums[:-width]
        return sums * _powers(_INVERSE_BASE, len(sums))

    def hashes_between(self, words: Numbers, stops: Numbers) -> Hashes:
        """Of the words from `words[i]` up to `stops[i]`."""
        return (self.sums[stops] - self.sums[words]) * _powers(_INVERSE_BASE, self.num_words + 1)[words]

    def _word_hashes(self) -> Hashes:
        eight_bytes: Hashes = np.ndarray((len(self.data) - 7,), np.dtype("<u8"), self.data, strides=(1,))
        hashes = np.zeros(self.num_words, np.uint64)
        lengths = self.ends - self.starts
        longer = np.arange(self.num_words)
        for offset in range(0, HASHED_BYTES, 8):
            part = eight_bytes[self.starts[longer] + offset] & _FIRST_BYTES[np.minimum(lengths[longer] - offset, 8)]
            hashes[longer] = _mixed(hashes[longer] ^ part)
            longer = longer[lengths[longer] > offset + 8]
        return hashes


@dataclass(frozen=True)
class _Grams:
    """N-grams of the questions, all of one width, sorted by their hashes."""

    width: int
    hashes: Hashes
    #: The question of each and, in words, its place there.
    questions: Numbers
    places: Numbers
    #: Whether an n-gram's hash begins with these bits, and how many bits of a hash they leave.
    table: npt.NDArray[np.bool_]
    shift: int

    @classmethod
    def of(cls, text: _Text, *, width: int, at: Numbers) -> "_Grams":
        """Of the n-grams that begin with these words, those that lie within a question."""
        ends_before = np.append(text.first_words[1:], text.num_words)
        questions = np.searchsorted(text.first_words, at, side="right") - 1
        inside = at + width <= ends_before[questions]
        at, questions = at[inside], questions[inside]
        hashes = text.gram_hashes(width)[at]
        order = np.argsort(hashes, kind="stable")
        bits = max(1, len(hashes) * TABLE_ENTRIES).bit_length()
        table = np.zeros(1 << bits, np.bool_)
        table[hashes >> (64 - bits)] = True
        places = at - text.first_words[questions]
        return cls(width, hashes[order], questions[order], places[order], table, 64 - bits)

    def find(self, text: _Text) -> Iterator[tuple[int, int, int, int]]:
        """Document and word of n-grams of a text, question and place of those of ours with equal hashes."""
        hashes = text.gram_hashes(self.width) if len(self.hashes) else self.hashes
        words = np.flatnonzero(self.table[hashes >> self.shift])
        firsts = np.searchsorted(self.hashes, hashes[words], side="left")
        counts = np.searchsorted(self.hashes, hashes[words], side="right") - firsts
        words = np.repeat(words, counts)
        grams = np.repeat(firsts - np.cumsum(counts) + counts, counts) + np.arange(len(words))
        columns = (text.documents_of(words), words, self.questions[grams], self.places[grams])
        return zip(*(column.tolist() for column in columns), strict=True)


def _powers(base: int, count: int) -> Hashes:
    """1, base, base squared, ... modulo 2^64."""
    powers = np.full(count, base, np.uint64)
    powers[:1] = 1
    return np.multiply.accumulate(powers)


def _mixed(values: Hashes) -> Hashes:
    """The mixer of splitmix64: every bit depends on every other."""
    values = (values ^ (values >> np.uint64(30))) * _MIX_1
    values = (values ^ (values >> np.uint64(27))) * _MIX_2
    return values ^ (values >> np.uint64(31))
