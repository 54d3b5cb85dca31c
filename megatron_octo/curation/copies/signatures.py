"""Signatures of documents: what copies of a text, and texts that are nearly alike, have in common.

    digests/00003.npy    uint8 [documents, 16], of the text, whatever its white space
    bands/00003.npy      uint64 [bands, documents], one key per band of MinHashes
    sketches/00003.npy   uint8 [documents, bands x rows], eight bits of each MinHash
    ids/00003.jsonl      the documents' ids, one per line

Shingles are runs of words (megatron_octo/ngrams.py: lower case, without punctuation). Two documents whose shingles have Jaccard
similarity s agree in a MinHash with probability s, and in the key of a band of r of them with s^r: with b bands they become a pair
worth comparing with probability 1 - (1 - s^r)^b. What that is for the usual b and r is in docs/curation.md. Pairs are then compared
by their sketches (duplicates.py).

20 to 30 MB of text a second and core (benchmarks/curation_duplicates.py); a part takes 0.3 kB of memory per document and its id, and as
much on the disk. datatrove's own step, with words from spaCy and a Python call for each shingle, makes 2 MB/s of words already split.
"""

import io
import string
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from megatron_octo import artifacts, ngrams
from megatron_octo.curation.documents import groups
from megatron_octo.curation.parts import OURS
from megatron_octo.errors import CorpusError

DIGESTS, BANDS, SKETCHES, IDS = "digests", "bands", "sketches", "ids"
DIGEST_BYTES = 16
WHITE_SPACE = string.whitespace.encode()
#: Of text, handed over at a time; numpy has much to do, and its arrays stay below 100 MB.
BATCH_CHARACTERS = 1 << 20
#: Odd, with bits that look random: the golden ratio's.
KEY_BASE = np.uint64(0x9E3779B97F4A7C15)

Hashes = npt.NDArray[np.uint64]
MinHashes = npt.NDArray[np.uint32]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Hashing:
    """The hash functions of a signature: x -> a x + b modulo 2^32, with a odd, of the upper half of a shingle's hash."""

    bands: int
    rows: int
    #: Words of a shingle.
    ngram: int
    seed: int

    @cached_property
    def _parameters(self) -> MinHashes:
        """[2, bands x rows]; Philox gives the same numbers on every machine and in every version of numpy."""
        numbers = np.random.Philox(self.seed).random_raw(2 * self.bands * self.rows).reshape(2, -1)
        return numbers.astype(np.uint32) | np.array([[1], [0]], np.uint32)

    def minima(self, texts: list[str]) -> MinHashes:
        """[bands x rows, documents]."""
        hashes, starts = ngrams.shingles(texts, ngram=self.ngram)
        shingles = (hashes >> np.uint64(32)).astype(np.uint32)
        values = np.empty_like(shingles)
        minima = np.empty((self.bands * self.rows, len(texts)), np.uint32)
        for factor, summand, row in zip(*self._parameters, minima, strict=True):
            np.multiply(shingles, factor, out=values)
            np.add(values, summand, out=values)
            np.minimum.reduceat(values, starts[:-1], out=row)
        return minima

    def keys(self, minima: MinHashes) -> Hashes:
        """One key per band and document, [bands, documents]: a polynomial of the band's MinHashes."""
        banded = minima.reshape(self.bands, self.rows, -1)
        keys = np.zeros((self.bands, banded.shape[-1]), np.uint64)
        for row in range(self.rows):
            keys = keys * KEY_BASE + banded[:, row]
        return keys


def sketches(minima: MinHashes) -> Bytes:
    """[documents, hashes], the lowest bits, since the highest of a minimum are zeros.

    Eight bits tell documents apart nearly as well as all of them: one in 256 is equal by chance [b-bit minwise hashing, arXiv 0910.3349].
    """
    return np.ascontiguousarray(minima.astype(np.uint8).T)


def digest(text: str) -> bytes:
    """Equal for texts that differ in nothing but white space; case and signs count, `x + 1` is not `x - 1`."""
    return blake2b(text.encode().translate(None, WHITE_SPACE), digest_size=DIGEST_BYTES).digest()


class Sign(PipelineStep):  # type: ignore[misc]
    """Last step: signatures of the documents of a part."""

    name = "signed"
    type = OURS

    def __init__(self, stage: Path, hashing: Hashing) -> None:
        super().__init__()
        self.stage = stage
        self.hashing = hashing

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        part = _Part(self.hashing)
        for batch in groups(data or (), characters=BATCH_CHARACTERS):
            part.add(batch)
            self.stat_update("documents", value=len(batch), unit="batch")
        for folder, array in part.arrays().items():
            _write(_file(self.stage, folder, rank), _npy(array))
        _write(_file(self.stage, IDS, rank), b"".join(orjson.dumps(each) + b"\n" for each in part.ids))


@dataclass
class _Part:
    hashing: Hashing
    ids: list[str] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    #: Per batch.
    keys: list[Hashes] = field(default_factory=list)
    sketches: list[Bytes] = field(default_factory=list)

    def add(self, batch: list[Document]) -> None:
        texts = [document.text for document in batch]
        minima = self.hashing.minima(texts)
        self.ids += [document.id for document in batch]
        self.digests += map(digest, texts)
        self.keys.append(self.hashing.keys(minima))
        self.sketches.append(sketches(minima))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        no_keys = np.zeros((self.hashing.bands, 0), np.uint64)
        no_sketches = np.zeros((0, self.hashing.bands * self.hashing.rows), np.uint8)
        return {
            DIGESTS: np.frombuffer(b"".join(self.digests), np.uint8).reshape(-1, DIGEST_BYTES),
            BANDS: np.concatenate([no_keys, *self.keys], axis=1),
            SKETCHES: np.concatenate([no_sketches, *self.sketches]),
        }


# Reading --------------------------------------------------------------------------------------------------------------


class Signed:
    """The finished stage. Documents are numbered through all parts, in their order; arrays stay on the disk until they are used."""

    def __init__(self, stage: Path) -> None:
        config = artifacts.finished(stage)["config"]
        self._stage = stage
        self.num_parts: int = config["parts"]
        self.num_bands: int = config["bands"]
        #: Of the first i parts, their documents.
        self.bounds = np.cumsum([0, *(len(each) for each in self.sketches)])

    @property
    def num_documents(self) -> int:
        return int(self.bounds[-1])

    @cached_property
    def sketches(self) -> list[Bytes]:
        """Per part, [documents, hashes]."""
        return self._arrays(SKETCHES)

    @cached_property
    def digests(self) -> list[Bytes]:
        """Per part, [documents, 16]."""
        return self._arrays(DIGESTS)

    def keys(self, band: int) -> Hashes:
        """Of all documents."""
        return np.concatenate([each[band] for each in self._arrays(BANDS)])

    def digest_keys(self) -> Hashes:
        """Of all documents, the first half of their digests."""
        return np.concatenate([each.view(np.uint64)[:, 0] for each in self.digests])

    def ids(self, part: int) -> list[str]:
        lines = _file(self._stage, IDS, part).read_bytes().splitlines()
        return [orjson.loads(line) for line in lines]

    def _arrays(self, folder: str) -> list[npt.NDArray[Any]]:
        return [_opened(_file(self._stage, folder, part)) for part in range(self.num_parts)]


def _opened(file: Path) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(file, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise CorpusError(f"{file} is missing or damaged ({error}); make the signatures again, with --force") from error
    return array


def _file(stage: Path, folder: str, part: int) -> Path:
    return stage / folder / f"{part:05d}{'.jsonl' if folder == IDS else '.npy'}"


def _npy(array: npt.NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _write(file: Path, data: bytes) -> None:
    """The file appears when it is complete."""
    file.parent.mkdir(exist_ok=True)
    with artifacts.appearing(file) as temporary:
        temporary.write_bytes(data)
