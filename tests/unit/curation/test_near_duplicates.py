"""Pairs, groups, copies: planted ones are found, others are not, and the first of each group stays."""

import random

import numpy as np
import pytest
from planted_pairs import pair, some_words

from megatron_octo.curation.copies import duplicates, signatures
from megatron_octo.curation.copies.duplicates import Copy, Likeness
from megatron_octo.curation.copies.signatures import Hashing

SEED = 20_261_123
NUM_PAIRS = 1_000
MIN_SIMILARITY = 0.75


def found(texts: list[str], hashing: Hashing) -> set[tuple[int, int]]:
    """Pairs of documents, over all bands."""
    minima = hashing.minima(texts)
    likeness = Likeness(rows=[signatures.sketches(minima)], bounds=np.array([0, len(texts)]), min_share=MIN_SIMILARITY)
    return {(left, right) for keys in hashing.keys(minima) for left, right in duplicates.links(keys, likeness).tolist()}


@pytest.mark.parametrize(
    ("jaccard", "least", "most"), [(0.95, 1.0, 1.0), (0.9, 0.99, 1.0), (0.6, 0.0, 0.01), (0.5, 0.0, 0.01)]
)
def test_near_duplicates_are_found_and_others_are_not(jaccard: float, least: float, most: float) -> None:
    source = random.Random(SEED)
    texts = [text for _ in range(NUM_PAIRS) for text in pair(source, jaccard)]
    pairs = found(texts, Hashing(bands=14, rows=8, ngram=5, seed=1))
    planted = {(first, first + 1) for first in range(0, len(texts), 2)}
    assert not pairs - planted
    assert least <= len(pairs) / NUM_PAIRS <= most


def test_case_spacing_and_punctuation_change_nothing() -> None:
    text = " ".join(some_words(random.Random(SEED), 100))
    texts = [text, text.upper().replace(" ", ",\n ")]
    assert found(texts, Hashing(bands=14, rows=8, ngram=5, seed=1)) == {(0, 1)}


def likeness_of(*parts: list[list[int]], min_share: float = 1.0) -> Likeness:
    rows = [np.array(part, np.uint8).reshape(-1, 2) for part in parts]
    return Likeness(rows=rows, bounds=np.cumsum([0, *map(len, rows)]), min_share=min_share)


@pytest.mark.parametrize(
    ("keys", "rows", "expected"),
    [
        ([], [], []),
        ([7, 8], [[1, 1], [1, 1]], []),
        ([7, 7], [[1, 1], [1, 1]], [[0, 1]]),
        ([7, 7], [[1, 1], [1, 2]], []),
        ([9, 7, 9, 7], [[1, 1]] * 4, [[1, 3], [0, 2]]),
        # Unlike the first of their key, alike among themselves.
        ([7, 7, 7, 7, 7], [[1, 1], [2, 2], [1, 1], [2, 2], [3, 3]], [[0, 2], [1, 3]]),
    ],
)
def test_links(keys: list[int], rows: list[list[int]], expected: list[list[int]]) -> None:
    likeness = likeness_of(rows)
    assert duplicates.links(np.array(keys, np.uint64), likeness).tolist() == expected


def test_likeness_is_a_share_of_equal_bytes_and_reads_over_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "BATCH_PAIRS", 2)
    likeness = likeness_of([[1, 1], [1, 2]], [], [[3, 2]], min_share=0.5)
    alike = likeness.holds(np.array([0, 0, 1, 2]), np.array([1, 2, 2, 2]))
    assert alike.tolist() == [True, False, True, True]


def test_documents_of_one_frame_do_not_cost_all_their_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "MOST_LEADERS", 2)
    likeness = likeness_of([[number // 2, number // 2] for number in range(10)])
    assert duplicates.links(np.zeros(10, np.uint64), likeness).tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ([], [0, 1, 2, 3, 4, 5]),
        ([[[1, 2]], [[4, 5]]], [0, 1, 1, 3, 4, 4]),
        ([[[2, 3], [1, 2]], [[3, 5], [0, 5]]], [0, 0, 0, 0, 4, 0]),
        ([[[0, 5], [1, 5], [2, 5], [3, 5]]], [0, 0, 0, 0, 4, 0]),
    ],
)
def test_first_of_groups(tables: list[list[list[int]]], expected: list[int]) -> None:
    assert duplicates.first_of_groups(6, map(np.array, tables)).tolist() == expected


def test_groups_are_those_of_a_search() -> None:
    """The join against a plain flood fill, on many small and large groups."""
    source = np.random.default_rng(SEED)
    pairs = np.sort(source.integers(0, 2_000, (900, 2)), axis=1)
    neighbours: dict[int, set[int]] = {}
    for left, right in pairs.tolist():
        neighbours.setdefault(left, set()).add(right)
        neighbours.setdefault(right, set()).add(left)
    expected = list(range(2_000))
    for first in range(2_000):
        reached = [first] if expected[first] == first else []
        while reached:
            for neighbour in neighbours.get(reached.pop(), ()):
                if expected[neighbour] > first:
                    expected[neighbour] = first
                    reached.append(neighbour)
    assert duplicates.first_of_groups(2_000, np.split(pairs, 3)).tolist() == expected


def test_copies_say_whether_the_text_is_the_same() -> None:
    exact, near = np.array([0, 1, 0, 3, 3]), np.array([0, 0, 0, 3, 3])
    assert list(duplicates.copies(exact, near, range(1, 5))) == [
        Copy(document=1, of=0, is_exact=False),
        Copy(document=2, of=0, is_exact=True),
        Copy(document=4, of=3, is_exact=True),
    ]
