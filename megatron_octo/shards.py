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
files, finding the document of a token at two numbers per halving of them.

A tokenised corpus is a stage directory with one or more shards and a `manifest.json` that names them.
"""

import bisect
import hashlib
import os
import struct
import time
import uuid
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
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
LENGTH, POINTER = np.dtype("<i4"), np.dtype("<i8")
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


class _File:
    """Reads here and there in a file, which is opened when first read.

    Not mapped: a page fault reads megabytes around it from some disks (measured: 10 ms for 32 kB where reading takes 0.05), what it
    maps counts as this process' memory, and a file that is cut off under a mapping ends the process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, dtype: np.dtype[Any], count: int, *, at: int) -> npt.NDArray[Any]:
        """`count` numbers from byte `at` on. Raises `CorpusError` naming the file."""
        try:
            data = os.pread(self._descriptor, count * dtype.itemsize, at)
        except OSError as error:
            raise CorpusError(f"cannot read {self.path}: {error.strerror}") from error
        if len(data) < count * dtype.itemsize:
            raise CorpusError(f"{self.path} was cut off while it was being read; tokenize the corpus again")
        return np.frombuffer(data, dtype)

    def close(self) -> None:
        """Give the descriptor back, of which a process has some hundreds; reading again opens the file again."""
        if self.__dict__.pop("_descriptor", None) is not None:
            self._closing()

    @cached_property
    def _descriptor(self) -> int:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        self._closing = weakref.finalize(self, os.close, descriptor)
        return descriptor


class Index:
    """An `.idx`, of which no more is read than is asked for."""

    def __init__(self, path: Path) -> None:
        """Raises `CorpusError` naming the file where its size or its ends are wrong; `ShardReader.open` looks at all of it."""
        self.header = read_header(path)
        self._file = _File(path)
        #: Of all sequences.
        self.num_tokens = self._check_ends()
        # Most runs never ask where documents begin.
        self._file.close()

    @property
    def num_documents(self) -> int:
        return self.header.marks - 1

    def documents_between(self, start: int, stop: int) -> range:
        """The documents that hold the tokens from `start` up to `stop`, and empty ones between them."""
        first, last = (self._document_of(token) for token in (start, stop - 1))
        return range(first, last + 1)

    def offsets(self, documents: range) -> Offsets:
        """The token with which each of some neighbouring documents begins.

        Raises `CorpusError` where they, or the sequences in them, do not follow one another.
        """
        marks = self._marks(documents.start, len(documents) + 1)
        first, last = int(marks[0]), int(marks[-1])
        if (np.diff(marks) < 0).any() or not 0 <= first <= last <= self.header.sequences:
            raise self._damaged(documents)
        # A sequence ends where the next one begins, the last one with the file.
        begins = self._begins(first, last - first + 1)
        if not np.array_equal(np.diff(begins), self._lengths(first, last - first)):
            raise self._damaged(documents)
        return begins[marks[:-1] - first]

    def _document_of(self, token: int) -> int:
        documents = range(self.num_documents)
        return bisect.bisect_right(documents, token, key=self._offset) - 1

    def _offset(self, document: int) -> int:
        mark = int(self._marks(document, 1)[0])
        if not 0 <= mark <= self.header.sequences:
            raise self._damaged(range(document, document + 1))
        return self._begin(mark)

    def _begin(self, sequence: int) -> int:
        return int(self._begins(sequence, 1)[0])

    def _begins(self, first: int, count: int) -> Offsets:
        """The token with which each of `count` sequences begins; the one after the last begins where the tokens end."""
        stored = min(count, self.header.sequences - first)
        pointers = self._file.read(POINTER, stored, at=self.header.pointers_at + first * POINTER.itemsize)
        begins: Offsets = pointers // self.header.dtype.itemsize
        return begins if stored == count else np.append(begins, self.num_tokens)

    def _lengths(self, first: int, count: int) -> npt.NDArray[np.int32]:
        return self._file.read(LENGTH, count, at=HEADER.size + first * LENGTH.itemsize)

    def _marks(self, first: int, count: int) -> Offsets:
        return self._file.read(POINTER, count, at=self.header.marks_at + first * POINTER.itemsize)

    def _damaged(self, documents: range) -> CorpusError:
        return CorpusError(
            f"{self._file.path} is damaged between the documents {documents.start:,} and {documents.stop - 1:,}: they do not follow "
            "one another; tokenize the corpus again"
        )

    def _check_ends(self) -> int:
        """The number of tokens, as the last sequence has it."""
        path, last = self._file.path, self.header.sequences - 1
        if self.num_documents < 0 or [*self._marks(0, 1), *self._marks(self.num_documents, 1)] != [0, last + 1]:
            raise CorpusError(f"{path}: document marks do not run from 0 to {last + 1:,}; tokenize the corpus again")
        if last < 0:
            return 0
        begin, length = self._begin(last), int(self._lengths(last, 1)[0])
        if self._begin(0) != 0 or begin < 0 or length < 0:
            raise CorpusError(f"{path}: sequences do not begin at byte 0 or end before it; tokenize the corpus again")
        return begin + length


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardReader:
    """A shard. Document i is `tokens[document_offsets[i]:document_offsets[i + 1]]`."""

    prefix: Path
    index: Index
    #: All token ids lie below it, by the corpus' manifest; None for a shard by itself.
    vocab_size: int | None

    @classmethod
    def attach(cls, prefix: Path, *, vocab_size: int | None = None) -> "ShardReader":
        """Open a shard after checking sizes and ends, at the same cost for any shard. Raises `CorpusError` naming the file."""
        index = Index(idx_path(prefix))
        _check_size(bin_path(prefix), index.header.dtype, index.num_tokens)
        return cls(prefix=prefix, index=index, vocab_size=vocab_size)

    @classmethod
    def open(cls, prefix: Path) -> "ShardReader":
        """Open a shard after checking every number of its index. Raises `CorpusError` naming the file."""
        header = read_header(idx_path(prefix))
        _check_index(idx_path(prefix), header.dtype, *read_arrays(idx_path(prefix), header))
        return cls.attach(prefix)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.index.header.dtype

    @property
    def num_tokens(self) -> int:
        return self.index.num_tokens

    @property
    def num_documents(self) -> int:
        return self.index.num_documents

    def read(self, start: int, stop: int) -> Tokens:
        """The tokens from `start` up to `stop`, for those who read here and there."""
        return self._bin.read(self.dtype, stop - start, at=start * self.dtype.itemsize)

    @cached_property
    def _bin(self) -> _File:
        return _File(bin_path(self.prefix))

    @cached_property
    def tokens(self) -> Tokens:
        """All tokens, mapped, for those who read them one after the other."""
        # mmap refuses empty files.
        return np.memmap(bin_path(self.prefix), self.dtype, "r") if self.num_tokens else np.zeros(0, self.dtype)

    @cached_property
    def document_offsets(self) -> Offsets:
        """Token offset of every document, and the number of tokens at the end: 8 bytes of memory per document."""
        lengths, _, marks = read_arrays(idx_path(self.prefix), self.index.header)
        return _offsets(lengths)[marks]

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
    def pointers_at(self) -> int:
        """Byte of the first offset, behind the lengths."""
        return HEADER.size + LENGTH.itemsize * self.sequences

    @property
    def marks_at(self) -> int:
        return self.pointers_at + POINTER.itemsize * self.sequences

    @property
    def file_bytes(self) -> int:
        """Size of the whole `.idx`."""
        return self.marks_at + POINTER.itemsize * self.marks


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
