"""Data order, computed instead of stored: which window of which corpus is sample number g.

A corpus is one stream of tokens, cut into fixed windows of `seq_length` (documents were shuffled at tokenisation). Two pure
functions order everything, so there is no index to build, nothing to keep in memory, and any sample is found in O(1):

- which corpus: a periodic pattern in which every corpus keeps within its quota at every prefix (the quota method of
  apportionment), so a blend of 0.725/0.1/... is exact after any number of samples;
- which of its windows: a keyed permutation (Feistel network) per corpus and epoch.

Resuming needs one integer, the step. The order depends on the seed and the phase's name, not on the number of ranks, and a
longer run begins with the samples of a shorter one. Cost: about 2 ms for 1,024 samples of 200B tokens, O(1) memory
(docs/measurements.md).
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from megatron_octo.errors import ConfigError, CorpusError
from megatron_octo.training.config import Blend

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


@dataclass(frozen=True)
class TokenStream:
    """The tokens of a corpus, shard after shard, cut into windows of `seq_length` tokens plus the label of the last one."""

    name: str
    #: One flat array of token ids per shard (memory-mapped).
    shards: tuple[npt.NDArray[np.integer], ...]
    seq_length: int

    def __post_init__(self) -> None:
        if self.num_windows < 1:
            raise CorpusError(
                f"corpus '{self.name}' has {self.num_tokens:,} tokens, less than one window of {self.seq_length} + 1; "
                "give it more text or train with a smaller seq_length"
            )

    @property
    def num_tokens(self) -> int:
        return sum(len(shard) for shard in self.shards)

    @property
    def num_windows(self) -> int:
        return (self.num_tokens - 1) // self.seq_length

    def window(self, index: int) -> Ints:
        """Tokens [seq_length + 1]; neighbours share one token, the label of the first is the start of the second."""
        start, stop = index * self.seq_length, (index + 1) * self.seq_length + 1
        parts, offset = [], 0
        for shard in self.shards:
            if offset < stop and start < offset + len(shard):
                parts.append(shard[max(0, start - offset) : stop - offset])
            offset += len(shard)
        return np.concatenate(parts).astype(np.int64)


class SampleOrder:
    """The samples of one phase: sample number -> tokens."""

    def __init__(self, *, blend: Blend, streams: Sequence[TokenStream], seed: int, phase: str) -> None:
        assert [share.corpus for share in blend.shares] == [stream.name for stream in streams]
        self.blend_order = BlendOrder(blend)
        self.streams = streams
        self._key = f"{seed}/{phase}"

    def locate(self, samples: Ints) -> tuple[Ints, Ints]:
        """samples [N] -> corpus index [N], window index within that corpus [N]."""
        corpora, ordinals = self.blend_order.locate(samples)
        windows = np.empty_like(ordinals)
        for index, stream in enumerate(self.streams):
            epochs, places = np.divmod(ordinals, stream.num_windows)
            for epoch in np.unique(epochs[corpora == index]):
                here = (corpora == index) & (epochs == epoch)
                key = f"{self._key}/{stream.name}/{epoch}".encode()
                windows[here] = permute(places[here], size=stream.num_windows, key=key)
        return corpora, windows

    def read(self, samples: Ints) -> tuple[Ints, Ints]:
        """samples [N] -> tokens [N, seq_length + 1], corpus index [N]."""
        corpora, windows = self.locate(samples)
        rows = [self.streams[corpus].window(window) for corpus, window in zip(corpora, windows, strict=True)]
        return np.stack(rows), corpora

    def epochs(self, num_samples: int) -> dict[str, float]:
        """How often the first `num_samples` samples go through each corpus."""
        drawn = self.blend_order.drawn(num_samples)
        return {stream.name: count / stream.num_windows for stream, count in zip(self.streams, drawn, strict=True)}
