"""Two pure functions that order all data, so that there is no index to build and any sample is found in O(1).

- which corpus: a periodic pattern in which every corpus keeps within its quota at every prefix (the quota method of
  apportionment), so a blend of 0.725/0.1/... is exact after any number of samples;
- which of its windows: a keyed permutation (Feistel network) per corpus and epoch.
"""

import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from megatron_octo.errors import ConfigError
from megatron_octo.training.blend import Blend

Ints = npt.NDArray[np.int64]
#: Shares with more than five decimals would need a longer pattern; it is built in about a second.
MAX_PERIOD = 100_000
FEISTEL_ROUNDS = 6


class BlendOrder:
    """Sample number -> (corpus, how many samples of that corpus came before), exact to its quota at every prefix."""

    def __init__(self, blend: Blend) -> None:
        weights = [Fraction(str(share.weight)) for share in blend.shares]
        period = math.lcm(*(weight.denominator for weight in weights))
        if period > MAX_PERIOD:
            raise ConfigError(
                f"the shares of the blend repeat after {period:,} samples; write them with at most five decimals"
            )
        self.counts = np.array([int(weight * period) for weight in weights], dtype=np.int64)
        self.pattern = _quota_pattern(self.counts.tolist())
        chosen = np.eye(len(weights), dtype=np.int64)[self.pattern]
        self._before = np.cumsum(chosen, axis=0) - chosen

    def locate(self, samples: Ints) -> tuple[Ints, Ints]:
        """samples [N] -> corpus index [N], ordinal within that corpus [N]."""
        turn, place = np.divmod(samples, len(self.pattern))
        corpus = self.pattern[place]
        return corpus, turn * self.counts[corpus] + self._before[place, corpus]

    def drawn(self, num_samples: int) -> Ints:
        """How many of the first `num_samples` samples come from each corpus [num_corpora]."""
        turns, place = divmod(num_samples, len(self.pattern))
        rest = np.bincount(self.pattern[:place], minlength=len(self.counts))
        return turns * self.counts + rest

    def place_of(self, corpus: int, ordinal: int) -> int:
        """The sample that is number `ordinal` of its corpus: the inverse of `locate`."""
        turns, nth = divmod(ordinal, int(self.counts[corpus]))
        return turns * len(self.pattern) + int(np.flatnonzero(self.pattern == corpus)[nth])


def _quota_pattern(counts: Sequence[int]) -> Ints:
    """One period of the quota method (Balinski and Young 1975): of the corpora below their upper quota, the most urgent."""
    period = sum(counts)
    drawn = [0] * len(counts)
    pattern = np.empty(period, dtype=np.int64)
    for place in range(period):
        below = [index for index, count in enumerate(counts) if drawn[index] * period < count * (place + 1)]
        chosen = min(below, key=lambda index: Fraction(drawn[index] + 1, counts[index]))
        pattern[place] = chosen
        drawn[chosen] += 1
    return pattern


def permute(ordinals: Ints, *, size: int, key: bytes) -> Ints:
    """A keyed permutation of range(size), evaluated at `ordinals` [N].

    A balanced Feistel network over the next even number of bits; values that fall outside are sent through again until they
    fall inside (cycle walking, fewer than four turns on average).
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    round_keys = np.frombuffer(hashlib.blake2b(key, digest_size=8 * FEISTEL_ROUNDS).digest(), dtype="<u8")
    values = _feistel(ordinals.astype(np.uint64), half, round_keys)
    while (outside := values >= size).any():
        values[outside] = _feistel(values[outside], half, round_keys)
    return values.astype(np.int64)


def _feistel(values: npt.NDArray[np.uint64], half: int, round_keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> shift, values & mask
    for round_key in round_keys:
        left, right = right, left ^ (_mix(right + round_key) & mask)
    return (left << shift) | right


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele et al. 2014): every input bit moves every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
