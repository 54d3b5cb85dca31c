"""One shard of a shuffled corpus out of its buckets. Runs in a worker process."""

from dataclasses import dataclass
from pathlib import Path

from megatron_octo import workers
from megatron_octo.shards import Shard, ShardWriter, token_dtype
from megatron_octo.tokenization import marks
from megatron_octo.tokenization.encoding import full_disk_explained
from megatron_octo.tokenization.shuffle import read_buckets, spread_prefix


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """A shard, and the buckets it is made of."""

    prefix: Path
    #: Where the pieces were spread, and how many they are.
    work: Path
    num_pieces: int
    first_bucket: int
    num_buckets: int
    vocab_size: int
    seed: int
    mark: Path
    #: Hash of the pieces' marks.
    made_of: str

    def __str__(self) -> str:
        return f"the shuffle of {self.prefix}"


def finished(job: ShardJob) -> Shard | None:
    """The shard, where an earlier try made it of the same pieces."""
    mark = marks.read(job.mark, made_of=job.made_of)
    return None if mark is None else mark.shard


def gather(job: ShardJob) -> None:
    """Make a shard. Raises `ResourceError` for a full disk."""
    buckets = range(job.first_bucket, job.first_bucket + job.num_buckets)
    pieces = [spread_prefix(job.work, index) for index in range(job.num_pieces)]
    job.mark.unlink(missing_ok=True)  # it must not vouch for what comes now
    with full_disk_explained(job.prefix):
        with ShardWriter(job.prefix, vocab_size=job.vocab_size) as writer:
            for tokens, lengths in read_buckets(pieces, buckets, dtype=token_dtype(job.vocab_size), seed=job.seed):
                writer.add(tokens, lengths)
                workers.advance(tokens.size)
        marks.write(job.mark, made_of=job.made_of, files=writer.files, shard=writer.shard())
