"""One piece of the corpus to token ids: read, encode, separate, write. Runs in a worker process.

A piece is made when its mark stands (marks.py). Everything before that is under other names or overwritten by the next try.
"""

import contextlib
import errno
import functools
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from megatron_octo import artifacts, units, workers
from megatron_octo.config import to_dict
from megatron_octo.errors import ResourceError
from megatron_octo.shards import ShardWriter, token_dtype
from megatron_octo.tokenization import marks, reading, sources
from megatron_octo.tokenization.checking import CheckedEngine
from megatron_octo.tokenization.config import EngineName, OnBadLine
from megatron_octo.tokenization.documents import separated
from megatron_octo.tokenization.engines import open_engine
from megatron_octo.tokenization.marks import Mark, Tally
from megatron_octo.tokenization.reading import BadLine
from megatron_octo.tokenization.shuffle import Spreader
from megatron_octo.tokenization.sources import Piece


@dataclass(frozen=True, kw_only=True)
class How:
    """What is the same for all pieces."""

    tokenizer: Path
    tokenizer_sha256: str
    engine: EngineName
    engine_version: str
    vocab_size: int
    text_field: str
    #: Token ids to put before and after every document; None puts nothing.
    before: int | None
    after: int | None
    on_bad_line: OnBadLine
    check_every: int
    max_mismatch_share: float
    #: Seed and number of buckets of the shuffle; None writes shards in the order of the input.
    shuffle_seed: int | None
    num_buckets: int

    @property
    def decisive(self) -> "How":
        """Without how strictly lines and engines are watched: what two tries must have in common."""
        return replace(self, on_bad_line=OnBadLine.SKIP, check_every=1, max_mismatch_share=0.0)


@dataclass(frozen=True, kw_only=True)
class PieceJob:
    """A piece, and where it goes."""

    how: How
    piece: Piece
    #: Its place in the corpus.
    index: int
    #: Prefix of the files to write: a shard, or what the shuffle reads.
    prefix: Path
    #: Where skipped lines are kept, if there are any.
    skipped: Path
    mark: Path

    def __str__(self) -> str:
        return str(self.piece)

    @property
    def made_of(self) -> str:
        return marks.hash_of(self.how.decisive, self.piece, self.index)


def finished(job: PieceJob) -> Mark | None:
    """The mark of a piece that an earlier try made as it is asked for now."""
    mark = marks.read(job.mark, made_of=job.made_of)
    strict = job.how.on_bad_line is OnBadLine.STOP
    return None if mark is None or (strict and mark.tally.skipped_lines) else mark


def encode(job: PieceJob) -> None:
    """Make a piece. Raises `CorpusError` for its text and `ResourceError` for a full disk."""
    sources.require_unchanged(job.piece)
    job.mark.unlink(missing_ok=True)  # it must not vouch for what comes now
    with full_disk_explained(job.prefix):
        _encode(job)


def _encode(job: PieceJob) -> None:
    tally = Tally()
    engine = _engine(job.how)
    before = _counts(engine)
    with _sink(job) as sink, _Aside(job.skipped) as aside:
        engine.start_piece()
        batches = reading.batches(job.piece, job.how.text_field, job.how.on_bad_line)
        for batch, seconds in reading.timed(batches):
            tally.read_seconds += batch.read_seconds
            tally.parse_seconds += seconds - batch.read_seconds
            _encode_batch(batch, engine, job.how, sink, tally)
            aside.write(batch.bad)
            workers.advance(batch.file_bytes)
    sources.require_unchanged(job.piece)
    for name, count in _counts(engine).items():
        setattr(tally, name, count - before[name])
    if isinstance(sink, ShardWriter):
        tally.hash_seconds = sink.hash_seconds
        tally.write_seconds -= sink.hash_seconds
    shard = sink.shard(source=str(job.piece)) if isinstance(sink, ShardWriter) else None
    marks.write(job.mark, made_of=job.made_of, files=[*sink.files, *aside.files], tally=tally, shard=shard)


def _counts(engine: CheckedEngine) -> dict[str, int]:
    """What the engine has counted since its process began."""
    return {
        "checked_documents": engine.checked,
        "mismatched_documents": engine.mismatched,
        "routed_documents": engine.routed,
        "engine_reopened": engine.recycled,
    }


def _encode_batch(
    batch: reading.Batch, engine: CheckedEngine, how: How, sink: ShardWriter | Spreader, tally: Tally
) -> None:
    started = time.perf_counter()
    tokens, lengths = engine.encode(batch.texts)
    encoded = time.perf_counter()
    # Above it numbers would wrap around in uint16, and mean other tokens.
    assert not tokens.size or int(tokens.max()) < how.vocab_size, (int(tokens.max()), how.vocab_size)
    out, filled = separated(tokens, lengths, before=how.before, after=how.after, dtype=token_dtype(how.vocab_size))
    sink.add(out, filled)
    tally.encode_seconds += encoded - started
    tally.write_seconds += time.perf_counter() - encoded
    tally.documents += len(filled)
    tally.empty_documents += len(lengths) - len(filled)
    tally.tokens += out.size
    tally.text_bytes += batch.text_bytes
    tally.file_bytes += batch.file_bytes
    tally.lines += batch.lines
    tally.skipped_lines += len(batch.bad)


def _sink(job: PieceJob) -> ShardWriter | Spreader:
    how = job.how
    if how.shuffle_seed is None:
        return ShardWriter(job.prefix, vocab_size=how.vocab_size)
    return Spreader(
        job.prefix,
        dtype=token_dtype(how.vocab_size),
        num_buckets=how.num_buckets,
        seed=(how.shuffle_seed, job.index),
    )


@functools.lru_cache(maxsize=1)
def _engine(how: How) -> CheckedEngine:
    """One for all pieces of this process."""
    return open_engine(
        how.tokenizer, how.engine, check_every=how.check_every, max_mismatch_share=how.max_mismatch_share
    )


class _Aside:
    """Skipped lines, kept for reading; no file where there are none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: IO[str] | None = None

    @property
    def files(self) -> list[Path]:
        return [] if self._stream is None else [self._path]

    def __enter__(self) -> "_Aside":
        self._path.unlink(missing_ok=True)
        return self

    def write(self, bad: Sequence[BadLine]) -> None:
        if bad and self._stream is None:
            self._stream = self._path.open("w")
        for line in bad:
            assert self._stream is not None
            self._stream.write(json.dumps(to_dict(line)) + "\n")

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            with self._stream:
                self._stream.flush()
                os.fsync(self._stream.fileno())


@contextlib.contextmanager
def full_disk_explained(prefix: Path) -> Iterator[None]:
    """A full disk as an error for people; the operating system's names no file."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = units.bytes_(artifacts.free_bytes(prefix.parent))
        raise ResourceError(
            f"the disk of {prefix.parent} is full ({error.strerror}, {free} free) while writing {prefix.name}; finished shards "
            "are kept: make room and run the same command again"
        ) from error
