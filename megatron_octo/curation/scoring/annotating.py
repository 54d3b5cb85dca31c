"""Which documents are scored, and how an answer becomes a score."""

import hashlib
import heapq
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from datatrove.data import Document

from megatron_octo.curation.documents import year_of
from megatron_octo.curation.language_model import prompts
from megatron_octo.curation.language_model.asking import Ask, Refused

#: `Final score: 3`, with what models put around it: `**Final score:** 3 points`, `Final score: 3/5.`
_SCORE = re.compile(
    r"^[\s*_#>-]*final score[\s*_]*:[\s*_]*<?(?P<score>\d+)>?(?:\s*/\s*5)?(?:\s*points?)?[\s*_.]*$",
    re.IGNORECASE | re.MULTILINE,
)
MAX_SCORE = 5
#: Of documents that got no score.
UNREADABLE, CUT, REFUSED = "unreadable", "cut", "refused"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a document lies: the `index`-th, from 0, of a part."""

    part: int
    index: int


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A document of the sample as the model is shown it."""

    id: str
    year: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """What came of it: a score, or the reason why there is none."""

    shown: Shown
    score: int | None
    reason: str | None
    #: The last one, also where it could not be read.
    answer: str
    prompt_tokens: int
    answer_tokens: int


def quotas(sizes: Mapping[str, int], sample: int) -> dict[str, int]:
    """How many of each stratum: the same number as far as they have so many; what small ones lack falls to the others.

    >>> quotas({"2014": 3, "2015": 50, "2016": 90}, 24)
    {'2014': 3, '2015': 11, '2016': 10}
    """
    given: dict[str, int] = {}
    left = sample
    smallest_first = sorted(sizes, key=lambda name: (sizes[name], name))
    for position, name in enumerate(smallest_first):
        given[name] = min(sizes[name], -(-left // (len(smallest_first) - position)))
        left -= given[name]
    return dict(sorted(given.items()))


def sampled(documents: Iterable[tuple[Place, Document]], wanted: Mapping[str, int], seed: int) -> list[Place]:
    """Places of the sample, in their order: of each year the documents whose ids hash to the smallest numbers.

    Memory is that of the sample, whatever the number of documents.
    """
    best: dict[str, list[tuple[int, int, int]]] = {year: [] for year in wanted}
    for place, document in documents:
        heap, most = best[year := year_of(document)], wanted[year]
        entry = (-_hash(document.id, seed), -place.part, -place.index)  # a heap's first is its smallest
        if len(heap) < most:
            heapq.heappush(heap, entry)
        elif most and entry > heap[0]:
            heapq.heapreplace(heap, entry)
    places = sorted((-part, -index) for heap in best.values() for _, part, index in heap)
    return [Place(part=part, index=index) for part, index in places]


def shown(document: Document, max_characters: int) -> Shown:
    return Shown(id=document.id, year=year_of(document), text=document.text[:max_characters])


def parse(answer: str) -> int | None:
    """The score of an answer; None where it names none, more than one, or one beyond the scale.

    >>> parse("It has worked examples.\\nFinal score: 3")
    3
    """
    found = [int(match["score"]) for match in _SCORE.finditer(answer)]
    return found[0] if len(found) == 1 and 0 <= found[0] <= MAX_SCORE else None


async def annotate(ask: Ask, page: Shown, *, template: str, max_new_tokens: int, attempts: int) -> Annotated:
    """Ask until an answer can be read, `attempts` times at most."""
    prompt = prompts.fill(template, page.text)
    prompt_tokens = answer_tokens = 0
    reason: str | None = None
    for attempt in range(attempts):
        try:
            answer = await ask(prompt, max_new_tokens=max_new_tokens, attempt=attempt)
        except Refused as refusal:
            text, score, reason = str(refusal), None, REFUSED
            break
        prompt_tokens += answer.prompt_tokens
        answer_tokens += answer.answer_tokens
        text, score = answer.text, parse(answer.text) if answer.finished else None
        if score is not None:
            reason = None
            break
        reason = UNREADABLE if answer.finished else CUT
    return Annotated(
        shown=page,
        score=score,
        reason=reason,
        answer=text,
        prompt_tokens=prompt_tokens,
        answer_tokens=answer_tokens,
    )


def _hash(identity: str, seed: int) -> int:
    return int.from_bytes(
        hashlib.blake2b(identity.encode("utf-8", "replace"), digest_size=8, key=str(seed).encode()).digest(), "big"
    )
