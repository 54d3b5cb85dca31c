"""Small shards for the tests of the data order."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from megatron_octo.shards import DTYPES, HEADER, MAGIC, VERSION, ShardReader, ShardWriter, bin_path, idx_path
from megatron_octo.training.data import TokenStream

VOCAB_SIZE = 512


def shard(prefix: Path, lengths: Sequence[int], *, first: int = 0) -> ShardReader:
    """Documents of these lengths; their tokens count on from `first`."""
    with ShardWriter(prefix, vocab_size=VOCAB_SIZE) as writer:
        total = sum(lengths)
        writer.add(np.arange(first, first + total), np.array(lengths, dtype=np.int64))
    return ShardReader.attach(prefix, vocab_size=VOCAB_SIZE)


def shard_of_sequences(prefix: Path, documents: Sequence[Sequence[int]]) -> ShardReader:
    """Documents of several sequences of these lengths, which our writer does not make; tokens count on from 0."""
    lengths = np.array([length for document in documents for length in document], dtype="<i4")
    pointers = 2 * (np.cumsum(lengths, dtype="<i8") - lengths)
    marks = np.cumsum([0, *map(len, documents)], dtype="<i8")
    header = HEADER.pack(MAGIC, VERSION, 8, len(lengths), len(marks))
    idx_path(prefix).write_bytes(header + lengths.tobytes() + pointers.astype("<i8").tobytes() + marks.tobytes())
    np.arange(lengths.sum()).astype(DTYPES[8]).tofile(bin_path(prefix))
    return ShardReader.open(prefix)


def stream(
    directory: Path, *shards: Sequence[int], name: str = "web", seq_length: int = 4, first: int = 0
) -> TokenStream:
    """One shard per list of document lengths; the tokens of the corpus count on from `first`."""
    readers = []
    for number, lengths in enumerate(shards):
        readers.append(shard(directory / f"{name}-{number}", lengths, first=first))
        first += sum(lengths)
    return TokenStream(name=name, shards=tuple(readers), seq_length=seq_length)
