"""Documents in a seeded random order. In memory: the tokens of the whole corpus, 4 bytes each, and once more while gathering."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

#: Tokens of some documents back to back, and the length of each document.
Piece = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]

GATHER_DOCUMENTS = 10_000


def shuffled(pieces: Iterable[Piece], *, seed: int | None) -> Iterator[Piece]:
    """The same documents in the order the seed gives; unchanged and streaming for None."""
    if seed is None:
        yield from pieces
        return
    held = list(pieces)
    if not held:
        return
    tokens = np.concatenate([tokens for tokens, _ in held])
    lengths = np.concatenate([lengths for _, lengths in held])
    del held
    order = np.random.default_rng(seed).permutation(len(lengths))
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    for first in range(0, len(order), GATHER_DOCUMENTS):
        chosen = order[first : first + GATHER_DOCUMENTS]
        yield tokens[_positions(starts[chosen], lengths[chosen])], lengths[chosen]


def _positions(starts: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Positions of several ranges one after the other: starts [7, 0], lengths [2, 3] -> [7, 8, 0, 1, 2]."""
    ends = np.cumsum(lengths, dtype=np.int64)
    within = np.arange(ends[-1] if len(ends) else 0, dtype=np.int64) - np.repeat(ends - lengths, lengths)
    positions: npt.NDArray[np.int64] = np.repeat(starts, lengths) + within
    return positions
