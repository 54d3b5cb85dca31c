"""The samples of a phase, computed instead of stored: which tokens sample number g has.

A corpus is one stream of tokens, cut into fixed windows of `seq_length` (documents were shuffled at tokenisation); `order.py`
says which window of which corpus comes next. Resuming needs one integer, the step. The order depends on the seed and the phase's
name, not on the number of ranks, and a longer run begins with the samples of a shorter one. Where documents begin is looked up in
the index, and only when asked for.

Cost: about 2 ms for 1,024 samples of 200B tokens, O(1) memory (docs/measurements.md).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from megatron_octo.errors import ConfigError, CorpusError
from megatron_octo.shards import ShardReader, bin_path
from megatron_octo.training.blend import Blend, Share
from megatron_octo.training.order import MAX_PERIOD, BlendOrder, Ints, permute

# Shapes: N samples, S tokens of a window, S1 = S + 1 with the label of the last one.

ReadT = TypeVar("ReadT")


@dataclass(frozen=True)
class Windows:
    """What is read for N samples."""

    tokens_NS1: Ints
    #: Index of each sample's corpus in the blend.
    corpora_N: Ints
    #: For every input token the first place in the window of the document it belongs to; None where nobody asked.
    starts_NS: Ints | None


class Part(NamedTuple):
    """The tokens from `start` up to `stop` of a shard."""

    shard: ShardReader
    start: int
    stop: int


@dataclass(frozen=True)
class TokenStream:
    """The tokens of a corpus, shard after shard, cut into windows of `seq_length` tokens plus the label of the last one."""

    name: str
    shards: tuple[ShardReader, ...]
    seq_length: int

    def __post_init__(self) -> None:
        if self.num_windows < 1:
            raise CorpusError(
                f"corpus '{self.name}' has {self.num_tokens:,} tokens, less than one window of {self.seq_length} + 1; "
                "give it more text or train with a smaller seq_length"
            )

    @cached_property
    def _offsets(self) -> Ints:
        """Tokens before every shard, and of all of them at the end."""
        return np.cumsum([0, *(shard.num_tokens for shard in self.shards)], dtype=np.int64)

    @property
    def num_tokens(self) -> int:
        return int(self._offsets[-1])

    @property
    def num_windows(self) -> int:
        return (self.num_tokens - 1) // self.seq_length

    def window(self, index: int) -> Ints:
        """Tokens [S1]; neighbours share one token, the label of the first is the start of the second.

        Raises `CorpusError` for an id outside the vocabulary: it would be an index beyond the embedding's end.
        """
        return np.concatenate([self._read(part, index) for part in self._parts(index, labels=1)])

    def document_starts(self, index: int) -> Ints:
        """For each input token of a window [S] the first place in it of the token's document."""
        begins, place = [], 0
        for shard, start, stop in self._parts(index):
            offsets = shard.index.offsets(shard.index.documents_between(start, stop))
            begins.append(place + np.maximum(offsets - start, 0))
            place += stop - start
        boundaries = np.concatenate(begins)
        return np.repeat(boundaries, np.diff(boundaries, append=self.seq_length))

    def documents(self, index: int) -> str:
        """Where a window's text stands, for a message."""
        parts = []
        for shard, start, stop in self._parts(index, labels=1):
            found = shard.index.documents_between(start, stop)
            parts.append(f"{shard.prefix}: documents {found.start} to {found.stop - 1}")
        return f"corpus '{self.name}', window {index}: {'; '.join(parts)}"

    def _parts(self, index: int, *, labels: int = 0) -> Iterator[Part]:
        """The pieces of shards that make up a window."""
        start = int(index) * self.seq_length
        stop = start + self.seq_length + labels
        first, last = np.searchsorted(self._offsets, [start, stop - 1], side="right") - 1
        for number in range(first, last + 1):
            before, shard = int(self._offsets[number]), self.shards[number]
            if shard.num_tokens:
                yield Part(shard, max(0, start - before), min(shard.num_tokens, stop - before))

    def _read(self, part: Part, window: int) -> Ints:
        shard, start, stop = part
        tokens = shard.read(start, stop).astype(np.int64)
        if shard.vocab_size is not None and (tokens.max() >= shard.vocab_size or tokens.min() < 0):
            place = int(np.flatnonzero((tokens >= shard.vocab_size) | (tokens < 0))[0])
            raise CorpusError(
                f"{bin_path(shard.prefix)}: token {start + place:,} is {tokens[place]:,}, outside the vocabulary of "
                f"{shard.vocab_size:,} (window {window:,} of corpus '{self.name}'); the file is damaged: tokenize the corpus again"
            )
        return tokens


class SampleOrder:
    """The samples of one phase: sample number -> tokens."""

    def __init__(
        self,
        *,
        blend: Blend,
        streams: Sequence[TokenStream],
        seed: int,
        phase: str,
        document_starts: bool = False,
    ) -> None:
        assert [share.corpus for share in blend.shares] == [stream.name for stream in streams]
        self.blend_order = BlendOrder(blend)
        self.streams = streams
        self.document_starts = document_starts
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

    def read(self, samples: Ints) -> Windows:
        """The windows of samples [N]."""
        corpora_N, windows = self.locate(samples)
        places = [(self.streams[corpus], int(window)) for corpus, window in zip(corpora_N, windows, strict=True)]
        seq_length = self.streams[0].seq_length
        tokens_NS1 = np.empty((len(samples), seq_length + 1), np.int64)
        starts_NS = np.empty((len(samples), seq_length), np.int64) if self.document_starts else None
        for row, (stream, window) in enumerate(places):
            tokens_NS1[row] = stream.window(window)
            if starts_NS is not None:
                starts_NS[row] = stream.document_starts(window)
        return Windows(tokens_NS1=tokens_NS1, corpora_N=corpora_N, starts_NS=starts_NS)

    def documents(self, samples: Ints) -> list[str]:
        """For messages: one line per sample that says in which documents of which shard its text stands."""
        places = zip(*self.locate(samples), strict=True)
        return [self.streams[corpus].documents(int(window)) for corpus, window in places]

    def epochs(self, num_samples: int) -> dict[str, float]:
        """How often the first `num_samples` samples go through each corpus."""
        drawn = self.blend_order.drawn(num_samples)
        return {stream.name: count / stream.num_windows for stream, count in zip(self.streams, drawn, strict=True)}


def require_caps(order: SampleOrder, blend: Blend, num_samples: int) -> None:
    """Raises `ConfigError` with the numbers where `num_samples` samples repeat a corpus more often than its share allows."""
    drawn = order.blend_order.drawn(num_samples)
    faults = []
    for index, (share, stream) in enumerate(zip(blend.shares, order.streams, strict=True)):
        if share.max_epochs is None:
            continue
        allowed = int(Fraction(str(share.max_epochs)) * stream.num_windows)
        if drawn[index] > allowed:
            # The first sample too many is the one that follows `allowed` of this corpus.
            fitting = order.blend_order.place_of(index, allowed)
            faults.append(
                _cap(share, stream, drawn=int(drawn[index]), allowed=allowed, fitting=fitting, of=num_samples)
            )
    if faults:
        raise ConfigError("\n".join(faults))


def _cap(share: Share, stream: TokenStream, *, drawn: int, allowed: int, fitting: int, of: int) -> str:
    """All in windows but the message."""
    size = stream.seq_length
    smaller = allowed * MAX_PERIOD // of / MAX_PERIOD
    way_out = f"lower its share from {share.weight:g} to {smaller:g}" if smaller else "leave it out of the blend"
    return (
        f"corpus '{share.corpus}' would be read {drawn / stream.num_windows:.4g} times ({drawn * size:,} of "
        f"{stream.num_windows * size:,} tokens), max_epochs allows {share.max_epochs:g}: train on at most {fitting * size:,} tokens "
        f"with this blend, {way_out}, give it more text, or raise max_epochs"
    )


class StepReader(Generic[ReadT]):
    """Reads what a step needs while the step before it is computed."""

    def __init__(self, read: Callable[[int], ReadT], *, first: int, last: int) -> None:
        """Begin with step `first`; steps end before `last`, which is not read."""
        #: How long the latest `take` waited; near zero while reading is faster than a step.
        self.waited_seconds = 0.0
        self._read, self._step, self._last = read, first, last
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="step-reader")
        self._next = self._ahead()

    def take(self, step: int) -> ReadT:
        """What was read for `step`; steps are taken one after the other. Raises what reading it raised."""
        assert step == self._step, (step, self._step)
        assert self._next is not None, (step, self._last)
        started = time.perf_counter()
        found = self._next.result()
        self.waited_seconds = time.perf_counter() - started
        self._step += 1
        self._next = self._ahead()
        return found

    def _ahead(self) -> Future[ReadT] | None:
        return self._thread.submit(self._read, self._step) if self._step < self._last else None

    def close(self) -> None:
        """Stop reading ahead; waits for a read that has begun."""
        self._thread.shutdown(wait=True, cancel_futures=True)
