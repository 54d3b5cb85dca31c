"""The pages of the tiny web: what each one is, and what is on it.

Half of the originals are mathematics (page_math.py, and pages of the generated world), half real documentation (page_prose.py). Among
them are planted copies, pages in other languages, and pages that quote questions of a made-up benchmark. A page depends on
the seed, its number and the number of pages alone.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from megatron_octo.curation import world
from megatron_octo.curation.config import TinyWeb
from megatron_octo.curation.tiny_web import page_math, page_prose
from megatron_octo.curation.tiny_web.page_prose import Section

#: Common Crawl's names, a year each; file by file through the years.
DUMPS = (
    "CC-MAIN-2013-20", "CC-MAIN-2014-15", "CC-MAIN-2015-22", "CC-MAIN-2016-30", "CC-MAIN-2017-26", "CC-MAIN-2018-05",
    "CC-MAIN-2019-22", "CC-MAIN-2020-16", "CC-MAIN-2021-31", "CC-MAIN-2022-40", "CC-MAIN-2023-23", "CC-MAIN-2024-46",
)  # fmt: skip
#: Of a near copy, one word in so many is another one, and at least one: Jaccard similarities of 5-word shingles from 0.9.
WORDS_PER_CHANGE = 200


class Kind(enum.Enum):
    """What is on a page."""

    MATHEMATICS = "mathematics"
    DOCUMENTATION = "documentation"
    EXACT_COPY = "exact_copy"
    NEAR_COPY = "near_copy"
    FOREIGN = "foreign"
    QUESTION = "question"


@dataclass(frozen=True, kw_only=True)
class Page:
    number: int
    kind: Kind
    #: Number of the page this one copies.
    original: int | None
    #: The question it quotes, by its place in the benchmark.
    question: int | None
    title: str
    paragraphs: tuple[str, ...]

    @property
    def url(self) -> str:
        return Web.url_of(self.number)


class Web:
    """All pages, by number. Holds the prose in memory, some 3 MB."""

    def __init__(self, config: TinyWeb) -> None:
        self._config = config
        self._kinds = _kinds(config)
        self._prose = page_prose.sections()
        self._quoting = [number for number, kind in enumerate(self._kinds) if kind is Kind.QUESTION]
        self.questions = questions(config)

    @staticmethod
    def url_of(number: int) -> str:
        return f"https://site{number % 97}.example.org/pages/{number}"

    def page(self, number: int) -> Page:
        """What is on page `number`."""
        kind = self._kinds[number]
        rng = self._rng("page", number)
        original = self._original(number) if kind in (Kind.EXACT_COPY, Kind.NEAR_COPY) else None
        question = self._quoting.index(number) if kind is Kind.QUESTION else None
        title, paragraphs = self._content(rng, kind, original, question)
        return Page(
            number=number, kind=kind, original=original, question=question, title=title, paragraphs=tuple(paragraphs)
        )

    def surroundings(self, page: Page) -> Random:
        """Where the choices of what surrounds the text come from; an exact copy has those of its original."""
        copied = page.original if page.kind is Kind.EXACT_COPY else None
        return self._rng("surroundings", page.number if copied is None else copied)

    def form(self, page: Page) -> Random:
        """Where the choices of how the text itself is written come from; every copy has those of its original."""
        return self._rng("form", page.number if page.original is None else page.original)

    def _content(self, rng: Random, kind: Kind, original: int | None, question: int | None) -> Section:
        if original is not None:
            page = self.page(original)
            return page.title, _changed(rng, page.paragraphs) if kind is Kind.NEAR_COPY else list(page.paragraphs)
        if question is not None:
            return _quoting_page(rng, self.questions[question]["question"])
        if kind is Kind.FOREIGN:
            return page_prose.foreign(rng)
        return _mathematics(rng) if kind is Kind.MATHEMATICS else self._documentation(rng)

    def _documentation(self, rng: Random) -> Section:
        title, paragraphs = rng.choice(self._prose)
        more = [rng.choice(self._prose) for _ in range(rng.randint(0, 2))]
        return title, [*paragraphs, *(text for name, texts in more for text in (f"See also: {name}", *texts))]

    def _original(self, number: int) -> int:
        """A page of the same file, so that it is the same whether text or HTML."""
        rng = self._rng("original", number)
        same_file = range(number % self._config.files, self._config.documents, self._config.files)
        originals = [other for other in same_file if self._kinds[other] in (Kind.MATHEMATICS, Kind.DOCUMENTATION)]
        return rng.choice(originals)

    def _rng(self, what: str, number: int) -> Random:
        return Random(f"{self._config.seed}/{what}/{number}")


def questions(config: TinyWeb) -> list[dict[str, str]]:
    """The made-up benchmark: word problems of some forty words, all different."""
    rng = Random(f"{config.seed}/questions")
    return [_question(rng, number) for number in range(config.planted_questions)]


def numbers_of(config: TinyWeb, file: int) -> range:
    """The pages of a file."""
    return range(file, config.documents, config.files)


def dump_of(file: int) -> str:
    """Years go by in steps of four, so that twelve files of three kinds have twelve years."""
    return DUMPS[(file % 3 * 4 + file // 3) % len(DUMPS)]


def _kinds(config: TinyWeb) -> list[Kind]:
    """The kind of each page; copies and other planted pages are exactly as many as asked for."""
    shares = {
        Kind.EXACT_COPY: config.exact_duplicates, Kind.NEAR_COPY: config.near_duplicates, Kind.FOREIGN: config.foreign
    }  # fmt: skip
    kinds = [kind for kind, share in shares.items() for _ in range(round(share * config.documents))]
    kinds += [Kind.QUESTION] * config.planted_questions
    left = config.documents - len(kinds)
    kinds += [Kind.MATHEMATICS] * (left - left // 2) + [Kind.DOCUMENTATION] * (left // 2)
    Random(f"{config.seed}/kinds").shuffle(kinds)
    return kinds


def _mathematics(rng: Random) -> Section:
    topics = ("Algebra", "Worked examples", "Exercises", "Lecture notes", "Homework help", "Practice problems")
    title = f"{rng.choice(topics)}, part {rng.randint(1, 400)}"
    paragraphs = [text for _ in range(rng.randint(3, 7)) for text in page_math.problem(rng)]
    if rng.random() < 0.1:
        paragraphs.append(world.document("web", rng.randrange(1 << 30), 0))
    return title, paragraphs


def _quoting_page(rng: Random, question: str) -> Section:
    """A page of mathematics with a benchmark's question on it, written a little differently."""
    title, paragraphs = _mathematics(rng)
    place = rng.randint(0, len(paragraphs))
    return title, [*paragraphs[:place], _disguised(rng, question), *paragraphs[place:]]


def _disguised(rng: Random, question: str) -> str:
    spaced = rng.choice((" ", "  ", "\n", " \t")).join(question.split())
    return rng.choice((str, str.upper, str.lower, str.title))(spaced)


def _changed(rng: Random, paragraphs: Sequence[str]) -> list[str]:
    """With some of its words, but no part of a formula, replaced."""
    texts = [text.split(" ") for text in paragraphs]
    places = [(i, j) for i, text in enumerate(texts) for j, word in enumerate(text) if word.isalpha()]
    length = sum(map(len, texts))
    for i, j in rng.sample(places, min(len(places), max(1, length // WORDS_PER_CHANGE))):
        texts[i][j] = rng.choice(("indeed", "perhaps", "surely", "simply", "again"))
    return [" ".join(text) for text in texts]


def _question(rng: Random, number: int) -> dict[str, str]:
    name, friend = rng.sample(world.NAMES, 2)
    thing, place = rng.choice(_THINGS), rng.choice(_PLACES)
    boxes, each, broken, price = rng.randint(3, 40), rng.randint(6, 48), rng.randint(1, 5), rng.randint(2, 9)
    question = (
        f"{name} brings {boxes} boxes of {thing} to the {place} on day {number + 1} and every box has {each} of them inside. On the "
        f"way {broken} get lost, {friend} sells all the others for {price} dollars apiece. How many dollars does {name} take home?"
    )
    return {"question": question, "answer": str((boxes * each - broken) * price)}


_THINGS = ("paper lanterns", "tin whistles", "clay cups", "wool hats", "glass beads", "wooden spoons", "candles")
_PLACES = ("harbour market", "village fair", "school bazaar", "night market", "town square")
