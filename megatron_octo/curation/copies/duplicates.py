"""Which documents are copies: pairs that agree in a band of MinHashes, compared, joined to groups of which the first stays.

A pair counts when as many of its sketches' bytes agree as its Jaccard similarity must be. Agreement in a band alone, which datatrove
takes for enough, finds pairs of similarity 0.5 too: 1 % of them with 11 bands of 10, 5 % with 14 of 8. With the comparison the bands
decide only what is missed, and can be many: at similarity 0.9 one pair in 2,600 with 14 bands of 8.

Memory, for 100 million documents: 3 GB in each worker (keys of one band, sorted) and 2.5 GB for the groups, with 0.2 kB for each of
them. Links are read one band at a time, sketches where pairs are compared. Time: a minute for each band.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megatron_octo.curation.copies.signatures import Bytes, Hashes

#: Pairs compared at a time: 0.1 GB.
BATCH_PAIRS = 1 << 18
#: Of the documents that agree in a band without being alike, the first so many are compared with the others, and what is left after
#: them is left to its other bands: these are pages of one frame, whose pairs would be without number.
MOST_LEADERS = 1_000

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """When two documents are the same: of the bytes in their rows, this share is equal."""

    #: Per part, [documents, bytes].
    rows: Sequence[Bytes]
    #: Of the first i parts, their documents.
    bounds: Numbers
    min_share: float

    def holds(self, left: Numbers, right: Numbers) -> npt.NDArray[np.bool_]:
        """For each pair of documents."""
        alike = np.empty(len(left), np.bool_)
        for first in range(0, len(left), BATCH_PAIRS):
            batch = slice(first, first + BATCH_PAIRS)
            share = np.mean(self._rows(left[batch]) == self._rows(right[batch]), axis=1)
            alike[batch] = share >= self.min_share
        return alike

    def _rows(self, documents: Numbers) -> Bytes:
        rows = np.empty((len(documents), self.rows[0].shape[1]), np.uint8)
        of_part = np.searchsorted(self.bounds, documents, side="right") - 1
        for part in np.unique(of_part):
            here = of_part == part
            rows[here] = self.rows[part][documents[here] - self.bounds[part]]
        return rows


def links(keys: Hashes, likeness: Likeness) -> Numbers:
    """Pairs [pairs, 2] of documents with equal keys that are alike, an earlier one first.

    Among those of one key, the first is compared with all; those unlike it are compared with the first of them, and so on.
    """
    documents = np.argsort(keys, kind="stable")
    documents, keys = _not_alone(documents, keys[documents])
    found = [np.zeros((0, 2), np.int64)]
    for _ in range(MOST_LEADERS):
        if not len(documents):
            break
        is_leader = np.append(True, keys[1:] != keys[:-1])
        leaders = documents[is_leader][np.cumsum(is_leader) - 1]
        others = ~is_leader
        alike = others.copy()
        alike[others] = likeness.holds(leaders[others], documents[others])
        found.append(np.stack([leaders[alike], documents[alike]], axis=1))
        documents, keys = _not_alone(documents[others & ~alike], keys[others & ~alike])
    return np.concatenate(found)


def _not_alone(documents: Numbers, keys: Hashes) -> tuple[Numbers, Hashes]:
    """Those that have their key in common with others; keys are sorted."""
    like_next = keys[1:] == keys[:-1]
    shared = np.zeros(len(keys), np.bool_)
    shared[:-1] = like_next
    shared[1:] |= like_next
    return documents[shared], keys[shared]


def first_of_groups(num_documents: int, tables: Iterable[Numbers]) -> Numbers:
    """For each document the first of the group that links join it to; for most, itself."""
    first = np.arange(num_documents)
    for table in tables:
        _join(first, table[:, 0], table[:, 1])
    return first


def _join(first: Numbers, left: Numbers, right: Numbers) -> None:
    """Join the groups of linked documents, in place; afterwards every document points at the first of its group again."""
    while True:
        left, right = first[left], first[right]
        apart = left != right
        if not apart.any():
            return
        left, right = left[apart], right[apart]
        # Of several links of one group the smallest counts; the others are apart in the next round, and join then.
        np.minimum.at(first, np.maximum(left, right), np.minimum(left, right))
        while not np.array_equal(further := first[first], first):
            first[:] = further


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A document that goes. Documents are numbered through all parts."""

    document: int
    #: What stays.
    of: int
    is_exact: bool


def copies(exact: Numbers, near: Numbers, documents: range) -> Iterator[Copy]:
    """Those among some documents that are not the first of their group, in their order.

    Args:
        exact: for each document, the first with the same text.
        near: for each document, the first of its group, which holds those with the same text.
    """
    numbers = np.arange(documents.start, documents.stop)
    gone = numbers[near[documents.start : documents.stop] != numbers]
    for document in gone.tolist():
        yield Copy(document=document, of=int(near[document]), is_exact=bool(exact[document] != document))
