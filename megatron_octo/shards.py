"""Megatron's indexed token shards, `PREFIX.bin` and `PREFIX.idx`: written by tokenization, read by training.

It stands beside the rooms because both need it and a room may not import another's verbs. The bytes equal those of
`megatron.core.datasets.indexed_dataset.IndexedDatasetBuilder` (a test compares them), without importing Megatron, which needs
torch and cannot be imported on every data node.

    .bin  tokens of all sequences, back to back, little endian, uint16 or int32
    .idx  9 bytes  "MMIDIDX\\0\\0"
          8        version, uint64 = 1
          1        dtype code, uint8: 4 = int32, 8 = uint16
          8        number of sequences S, uint64
          8        number of document marks D + 1, uint64
          4 S      sequence lengths in tokens, int32
          8 S      byte offsets of the sequences in .bin, int64
          8 (D+1)  sequence index where each document starts, and S at the end, int64

We write one sequence per document; the reader takes documents of several. Nothing is held in memory: opening looks at the ends of the
files, finding the document of a token at a page per halving (docs/measurements.md).

A tokenised corpus is a stage directory with one or more shards and a `manifest.json` that names them.
"""

import bisect
import hashlib
import mmap
import os
import struct
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_octo.artifacts import sync_directory
from megatron_octo.config import load
from megatron_octo.errors import CorpusError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
DTYPES: dict[int, np.dtype[Any]] = {4: np.dtype("<i4"), 8: np.dtype("<u2")}

#: Numbers of an index in memory at a time.
CHUNK_NUMBERS = 1 << 20

MANIFEST = "manifest.json"
#: Under this name stages whose model or tokens belong to a tokenizer record its identity in their counts.
TOKENIZER_SHA256 = "tokenizer_sha256"

Tokens = npt.NDArray[np.integer[Any]]
Offsets = npt.NDArray[np.int64]


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """uint16 below 65,500 entries, else int32: the bound of Megatron's `DType.optimal_dtype`."""
    return DTYPES[8] if vocab_size < 65_500 else DTYPES[4]


def bin_path(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.bin")


def idx_path(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.idx")


class ShardWriter:
    """Writes one shard; it appears under its name when the block ends well, and leaves nothing behind when it does not.

    >>> with ShardWriter(directory / "web", vocab_size=512) as writer:
    ...     writer.add(tokens, lengths)
    >>> writer.shard().tokens
    """

    def __init__(self, prefix: Path, *, vocab_size: int) -> None:
        self.prefix = prefix
        self.dtype = token_dtype(vocab_size)
        self.hash_seconds = 0.0
        self._lengths: list[npt.NDArray[np.int32]] = []
        self._sha256 = hashlib.sha256()
        # Names of its own: another process may write the same shard, where somebody started two.
        own = uuid.uuid4().hex[:8]
        self._temporary = {path: path.with_name(f".{path.name}.{own}.tmp") for path in self.files}

    @property
    def files(self) -> tuple[Path, ...]:
        return bin_path(self.prefix), idx_path(self.prefix)

    def __enter__(self) -> "ShardWriter":
        self._bin = self._temporary[bin_path(self.prefix)].open("wb")
        return self

    def add(self, tokens: Tokens, lengths: npt.NDArray[np.integer[Any]]) -> None:
        """Append documents: their tokens back to back, and the length of each."""
        assert int(lengths.sum()) == tokens.size, (int(lengths.sum()), tokens.size)
        data = np.ascontiguousarray(tokens, dtype=self.dtype).data
        self._bin.write(data)
        started = time.perf_counter()
        self._sha256.update(data)
        self.hash_seconds += time.perf_counter() - started
        self._lengths.append(lengths.astype("<i4"))

    def shard(self, *, source: str | None = None) -> "Shard":
        """What was written, once the block has ended."""
        return self._shard if source is None else replace(self._shard, source=source)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._bin.close()
            for temporary in self._temporary.values():
                temporary.unlink(missing_ok=True)

    def _finish(self) -> None:
        lengths = np.concatenate(self._lengths or [np.zeros(0, "<i4")])
        index_sha256 = hashlib.sha256()
        with self._temporary[idx_path(self.prefix)].open("wb") as stream:
            for part in index_parts(lengths, self.dtype):
                stream.write(part)
                index_sha256.update(part)
            _to_disk(stream)
        _to_disk(self._bin)
        for path, temporary in self._temporary.items():
            os.replace(temporary, path)
        sync_directory(self.prefix.parent)
        tokens = int(lengths.sum(dtype=np.int64))
        self._shard = Shard(
            name=self.prefix.name,
            documents=len(lengths),
            tokens=tokens,
            bytes=tokens * self.dtype.itemsize,
            bin_sha256=self._sha256.hexdigest(),
            idx_sha256=index_sha256.hexdigest(),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """An `.idx` mapped from the disk. Its numbers are not aligned, so a whole-array function of numpy would copy them all."""

    path: Path
    dtype: np.dtype[Any]
    #: Tokens of every sequence.
    lengths: npt.NDArray[np.int32]
    #: Byte of the `.bin` where every sequence begins.
    pointers: Offsets
    #: Sequence with which every document begins, and their number.
    marks: Offsets

    @classmethod
    def map(cls, path: Path) -> "Index":
        """Map an index after checking its size and both ends. Raises `CorpusError` naming the file."""
        header = read_header(path)
        try:
            with path.open("rb") as stream:
                data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise CorpusError(f"cannot map the shard index {path}: {error.strerror}") from error
        # Otherwise every fault reads megabytes around it from some disks.
        data.madvise(mmap.MADV_RANDOM)
        pointers_at = HEADER.size + 4 * header.sequences
        index = cls(
            path=path,
            dtype=header.dtype,
            lengths=np.frombuffer(data, "<i4", header.sequences, HEADER.size),
            pointers=np.frombuffer(data, "<i8", header.sequences, pointers_at),
            marks=np.frombuffer(data, "<i8", header.marks, pointers_at + 8 * header.sequences),
        )
        index._check_ends()
        return index

    @property
    def num_documents(self) -> int:
        return len(self.marks) - 1

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences, as the last one has it."""
        return int(self.pointers[-1]) // self.dtype.itemsize + int(self.lengths[-1]) if len(self.lengths) else 0

    def documents_between(self, start: int, stop: int) -> range:
        """The documents that hold the tokens from `start` up to `stop`, and empty ones between them."""
        first, last = (self._document_of(token) for token in (start, stop - 1))
        return range(first, last + 1)

    def offsets(self, documents: range) -> Offsets:
        """The token with which each of some neighbouring documents begins.

        Raises `CorpusError` where they, or the sequences in them, do not follow one another.
        """
        marks = np.array(self.marks[documents.start : documents.stop + 1])
        first, last = int(marks[0]), int(marks[-1])
        if (np.diff(marks) < 0).any() or not 0 <= first <= last <= len(self.pointers):
            raise self._damaged(documents)
        # Where a sequence ends the next one begins, and after the last one the file ends.
        ends = self.pointers[first:last] + self.lengths[first:last] * np.int64(self.dtype.itemsize)
        begins = np.append(self.pointers[first : last + 1], self.num_tokens * self.dtype.itemsize)[: last - first + 1]
        if not np.array_equal(ends, begins[1:]) or (np.diff(begins) < 0).any():
            raise self._damaged(documents)
        offsets: Offsets = begins[marks[:-1] - first] // self.dtype.itemsize
        return offsets

    def _document_of(self, token: int) -> int:
        documents = range(self.num_documents)
        return bisect.bisect_right(documents, token, key=self._offset) - 1

    def _offset(self, document: int) -> int:
        mark = int(self.marks[document])
        if not 0 <= mark <= len(self.pointers):
            raise self._damaged(range(document, document + 1))
        return int(self.pointers[mark]) // self.dtype.itemsize if mark < len(self.pointers) else self.num_tokens

    def _damaged(self, documents: range) -> CorpusError:
        return CorpusError(
            f"{self.path} is damaged between the documents {documents.start:,} and {documents.stop - 1:,}: they do not follow one "
            "another; tokenize the corpus again"
        )

    def _check_ends(self) -> None:
        """What a look at the first and last numbers tells; `ShardReader.open` looks at all."""
        if not len(self.marks) or (self.marks[0], self.marks[-1]) != (0, len(self.lengths)):
            raise CorpusError(
                f"{self.path}: document marks do not run from 0 to {len(self.lengths):,}; tokenize the corpus again"
            )
        if len(self.lengths) and (self.pointers[0] != 0 or self.lengths[-1] < 0 or self.pointers[-1] < 0):
            raise CorpusError(
                f"{self.path}: sequences do not begin at byte 0 or end before it; tokenize the corpus again"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardReader:
    """A shard. Document i is `tokens[document_offsets[i]:document_offsets[i + 1]]`."""

    prefix: Path
    dtype: np.dtype[Any]
    num_tokens: int
    num_documents: int
    #: All token ids lie below it, by the corpus' manifest; None for a shard by itself.
    vocab_size: int | None

    @classmethod
    def attach(cls, prefix: Path, *, vocab_size: int | None = None) -> "ShardReader":
        """Open a shard after checking sizes and ends, at the same cost for any shard. Raises `CorpusError` naming the file."""
        index = Index.map(idx_path(prefix))
        _check_size(bin_path(prefix), index.dtype, index.num_tokens)
        return cls(
            prefix=prefix,
            dtype=index.dtype,
            num_tokens=index.num_tokens,
            num_documents=index.num_documents,
            vocab_size=vocab_size,
        )

    @classmethod
    def open(cls, prefix: Path) -> "ShardReader":
        """Open a shard after checking every number of its index. Raises `CorpusError` naming the file."""
        header = read_header(idx_path(prefix))
        _check_index(idx_path(prefix), header.dtype, *read_arrays(idx_path(prefix), header))
        return cls.attach(prefix)

    def read(self, start: int, stop: int) -> Tokens:
        """The tokens from `start` up to `stop`, for those who read here and there.

        A page fault in `tokens` reads megabytes around it from some disks (measured: 10 ms for 32 kB where reading takes 0.05),
        and a file that is cut off under a mapping ends the process.
        """
        size = self.dtype.itemsize
        data = os.pread(self._file.fileno(), (stop - start) * size, start * size)
        if len(data) < (stop - start) * size:
            raise CorpusError(f"{self._file.name} was cut off while it was being read; tokenize the corpus again")
        return np.frombuffer(data, self.dtype)

    @cached_property
    def tokens(self) -> Tokens:
        """All tokens, mapped, for those who read them one after the other."""
        # mmap refuses empty files.
        return np.memmap(bin_path(self.prefix), self.dtype, "r") if self.num_tokens else np.zeros(0, self.dtype)

    @cached_property
    def _file(self) -> FileIO:
        try:
            return bin_path(self.prefix).open("rb", buffering=0)
        except OSError as error:
            raise CorpusError(f"cannot read the shard {bin_path(self.prefix)}: {error.strerror}") from error

    @cached_property
    def index(self) -> Index:
        """Mapped when first asked for: a mapping holds a file descriptor, and most runs never ask."""
        return Index.map(idx_path(self.prefix))

    @cached_property
    def document_offsets(self) -> Offsets:
        """Token offset of every document, and the number of tokens at the end: 8 bytes of memory per document."""
        return _offsets(self.index.lengths)[self.index.marks]

    @property
    def document_lengths(self) -> Offsets:
        return np.diff(self.document_offsets)

    def document(self, number: int) -> Tokens:
        return self.tokens[self.document_offsets[number] : self.document_offsets[number + 1]]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One `.bin`/`.idx` pair of a corpus; `name` is its prefix within the corpus directory."""

    name: str
    documents: int
    tokens: int
    #: Size of the `.bin` file.
    bytes: int
    bin_sha256: str
    idx_sha256: str
    #: The input it was made of; None where documents of all inputs were shuffled.
    source: str | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a tokenised corpus is; training reads token budgets, epochs and the tokenizer's identity from it."""

    corpus: str
    #: Of what the tokenizer does, not of how its file is laid out: `tokenization/identity.py`.
    tokenizer_sha256: str
    vocab_size: int
    engine: str
    engine_version: str
    #: None where the tokenizer has no such token.
    bos_id: int | None
    eos_id: int | None
    prepend_bos: bool
    append_eod: bool
    shuffle_seed: int | None
    documents: int
    #: Documents skipped because they had no text.
    empty_documents: int
    #: Lines that could not be read and were put aside in `skipped/`.
    skipped_lines: int
    #: Documents that the oracle encoded too, and those of them on which it differed; its tokens are the ones kept.
    checked_documents: int
    mismatched_documents: int
    tokens: int
    #: UTF-8 bytes of the text.
    text_bytes: int
    shards: tuple[Shard, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Corpus:
    """A tokenised corpus, ready to read."""

    manifest: Manifest
    shards: tuple[ShardReader, ...]

    @property
    def vocab_size(self) -> int:
        return self.manifest.vocab_size

    @property
    def tokens(self) -> tuple[Tokens, ...]:
        """One flat array per shard, mapped from the disk."""
        return tuple(shard.tokens for shard in self.shards)


def open_corpus(directory: Path) -> Corpus:
    """Open what a tokenization stage made, at the same cost for any number of tokens.

    Raises `CorpusError` where the manifest or a shard is missing, or they contradict one another.
    """
    file = directory / MANIFEST
    if not file.exists():
        raise CorpusError(f"{directory} is no tokenised corpus (no {MANIFEST}); run the tokenize stage that makes it")
    manifest = load(Manifest, file)
    readers = tuple(
        ShardReader.attach(directory / shard.name, vocab_size=manifest.vocab_size) for shard in manifest.shards
    )
    for shard, reader in zip(manifest.shards, readers, strict=True):
        if (reader.num_documents, reader.num_tokens) != (shard.documents, shard.tokens):
            raise CorpusError(
                f"{reader.prefix} holds {reader.num_documents:,} documents of {reader.num_tokens:,} tokens where {file} says "
                f"{shard.documents:,} of {shard.tokens:,}; tokenize the corpus again"
            )
    return Corpus(manifest=manifest, shards=readers)


def _offsets(lengths: npt.NDArray[np.integer[Any]]) -> Offsets:
    """[2, 3] -> [0, 2, 5]."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def index_parts(lengths: npt.NDArray[np.int32], dtype: np.dtype[Any]) -> Iterator[bytes]:
    """The `.idx` of documents of one sequence each, a million numbers at a time."""
    code = next(code for code, known in DTYPES.items() if known == dtype)
    yield HEADER.pack(MAGIC, VERSION, code, len(lengths), len(lengths) + 1)
    yield lengths.astype("<i4", copy=False).tobytes()
    offset = 0
    for first in range(0, len(lengths), CHUNK_NUMBERS):
        sizes = lengths[first : first + CHUNK_NUMBERS].astype("<i8") * dtype.itemsize
        ends = offset + np.cumsum(sizes)
        yield (ends - sizes).tobytes()
        offset = int(ends[-1])
    for first in range(0, len(lengths) + 1, CHUNK_NUMBERS):
        yield np.arange(first, min(first + CHUNK_NUMBERS, len(lengths) + 1), dtype="<i8").tobytes()


@dataclass(frozen=True, kw_only=True)
class Header:
    """What an `.idx` begins with."""

    dtype_code: int
    sequences: int
    #: Document marks, one more than documents.
    marks: int

    @property
    def dtype(self) -> np.dtype[Any]:
        return DTYPES[self.dtype_code]

    @property
    def file_bytes(self) -> int:
        """Size of the whole `.idx`."""
        return HEADER.size + 12 * self.sequences + 8 * self.marks


def read_header(path: Path) -> Header:
    """The header of an index file whose size agrees with it. Raises `CorpusError` naming the file."""
    try:
        with path.open("rb") as stream:
            data, size = stream.read(HEADER.size), os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise CorpusError(f"cannot read the shard index {path}: {error.strerror}; tokenize the corpus first") from error
    if not data.startswith(MAGIC) or len(data) < HEADER.size:
        raise CorpusError(f"{path} is no Megatron index (it does not start with {MAGIC!r}); tokenize the corpus again")
    _, version, code, sequences, marks = HEADER.unpack(data)
    if version != VERSION or code not in DTYPES:
        raise CorpusError(
            f"{path}: version {version}, dtype code {code}; version 1 with int32 (4) or uint16 (8) expected"
        )
    header = Header(dtype_code=code, sequences=sequences, marks=marks)
    if size != header.file_bytes:
        raise CorpusError(
            f"{path} has {size:,} bytes where {sequences:,} sequences and {marks:,} document marks make "
            f"{header.file_bytes:,}; tokenize the corpus again"
        )
    return header


def read_arrays(
    path: Path, header: Header
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Sequence lengths, byte offsets of the sequences, document marks, as they stand in the file."""
    with path.open("rb") as stream:
        stream.seek(HEADER.size)
        lengths = np.fromfile(stream, "<i4", header.sequences)
        pointers = np.fromfile(stream, "<i8", header.sequences)
        return lengths, pointers, np.fromfile(stream, "<i8", header.marks)


def _check_index(
    path: Path, dtype: np.dtype[Any], lengths: npt.NDArray[np.int32], pointers: Offsets, documents: Offsets
) -> None:
    if not np.array_equal(pointers, _offsets(lengths)[:-1] * dtype.itemsize) or (lengths < 0).any():
        raise CorpusError(f"{path}: sequence offsets do not add up from the lengths; tokenize the corpus again")
    # Builders that added documents one by one start with 0, end with S and never step back.
    if not documents.size or documents[0] != 0 or documents[-1] != len(lengths) or (np.diff(documents) < 0).any():
        raise CorpusError(f"{path}: document marks do not run from 0 to {len(lengths):,}; tokenize the corpus again")


def _check_size(path: Path, dtype: np.dtype[Any], num_tokens: int) -> None:
    expected = num_tokens * dtype.itemsize
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CorpusError(f"cannot read the shard {path}: {error.strerror}; tokenize the corpus first") from error
    if size != expected:
        raise CorpusError(
            f"{path} has {size:,} bytes where its index promises {num_tokens:,} {dtype.name} tokens = {expected:,} bytes; "
            "the file is cut off or belongs to another index: tokenize the corpus again"
        )


def _to_disk(stream: Any) -> None:
    stream.flush()
    os.fsync(stream.fileno())
