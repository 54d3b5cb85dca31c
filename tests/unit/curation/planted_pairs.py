"""Pairs of documents as alike as a test wants them."""

import random

_ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def some_words(source: random.Random, count: int) -> list[str]:
    """No two alike, as far as chance goes."""
    return ["".join(source.choices(_ALPHABET, k=10)) for _ in range(count)]


def pair(source: random.Random, jaccard: float) -> list[str]:
    """Two documents whose 5-word shingles, 400 in both together, have just this Jaccard similarity."""
    shared = some_words(source, round(400 * jaccard) + 4)
    return [" ".join(shared + some_words(source, round(200 * (1 - jaccard)))) for _ in range(2)]
