"""Signatures: the same for the same words, as alike as the documents are, whatever the batches."""

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from datatrove.data import Document
from planted_pairs import pair, some_words

from megatron_octo import artifacts, ngrams
from megatron_octo.curation.config import Signatures
from megatron_octo.curation.copies import signatures
from megatron_octo.curation.copies.signatures import Hashing, Sign, Signed
from megatron_octo.errors import CorpusError

HASHING = Hashing(bands=14, rows=8, ngram=5, seed=1)
SEED = 20_261_123


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 1), ("one two", 1), ("one two three four five", 1), ("one two three four five six seven", 3)],
)
def test_every_document_has_shingles(text: str, count: int) -> None:
    _, starts = ngrams.shingles(["before it", text, "after"], ngram=5)
    assert np.diff(starts).tolist() == [1, count, 1]


def test_shingles_are_the_same_wherever_they_stand() -> None:
    hashes, starts = ngrams.shingles(["a b c d e f", "x y A  b, c: d e", "a b c d", "e f g", "A (b) c d"], ngram=5)
    of_document = [hashes[first:stop].tolist() for first, stop in itertools.pairwise(starts)]
    assert of_document[1][2] == of_document[0][0]
    assert of_document[4] == of_document[2]
    assert len({each for some in of_document for each in some}) == 6  # 2, 2 new ones, 1, 1, and none new


@pytest.mark.parametrize("jaccard", [0.5, 0.75, 0.9])
def test_sketches_are_as_alike_as_documents(jaccard: float) -> None:
    source = random.Random(SEED)
    texts = [text for _ in range(200) for text in pair(source, jaccard)]
    sketches = signatures.sketches(HASHING.minima(texts))
    alike = float(np.mean(sketches[::2] == sketches[1::2]))
    # Of 22,400 hashes four standard deviations are 0.013; one in 256 bytes is equal by chance.
    assert alike == pytest.approx(jaccard + (1 - jaccard) / 256, abs=0.013)


def test_minhashes_are_smallest_values_of_hash_functions() -> None:
    texts = ["one two three four five six", "seven"]
    (factor, *_), (summand, *_) = HASHING._parameters.tolist()
    hashes, starts = ngrams.shingles(texts, ngram=5)
    expected = [
        min(((each >> 32) * factor + summand) % 2**32 for each in hashes[first:stop].tolist())
        for first, stop in itertools.pairwise(starts)
    ]
    assert HASHING.minima(texts)[0].tolist() == expected


def test_a_key_is_that_of_its_band_alone() -> None:
    minima = np.arange(HASHING.bands * HASHING.rows, dtype=np.uint32).reshape(-1, 1).repeat(2, axis=1)
    minima[8, 1] += np.uint32(1)  # the first of the second band
    first, second = HASHING.keys(minima).T
    assert np.flatnonzero(first != second).tolist() == [1]
    assert len(set(first.tolist())) == HASHING.bands


@pytest.mark.parametrize(
    ("text", "same"),
    [("x + 1\n\n\tis  odd ", True), ("X + 1 is odd", False), ("x - 1 is odd", False), ("x + 1 is odd.", False)],
)
def test_digests_pass_over_white_space_alone(text: str, same: bool) -> None:
    assert (signatures.digest(text) == signatures.digest("x + 1 is odd")) is same


def signed(directory: Path, parts: list[list[str]]) -> Signed:
    """A finished stage with these texts; ids are `part/place` in lines."""
    config = Signatures(parts=len(parts))
    with artifacts.stage(directory, kind="signatures", config=config):
        for part, texts in enumerate(parts):
            documents = [Document(text=text, id=f"{part}\n{place}") for place, text in enumerate(texts)]
            Sign(directory, HASHING).run(iter(documents), part)
    return Signed(directory)


def test_reading_what_was_signed(tmp_path: Path) -> None:
    found = signed(tmp_path / "signatures", [["one", "two"], [], ["two"]])
    assert found.num_documents == 3
    assert found.bounds.tolist() == [0, 2, 2, 3]
    assert [found.ids(part) for part in range(3)] == [["0\n0", "0\n1"], [], ["2\n0"]]
    for keys in (found.keys(13), found.digest_keys()):
        assert keys[0] != keys[1] == keys[2]
    assert found.sketches[0].shape == (2, 112)


def test_batches_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [" ".join(some_words(random.Random(number), 5 * number)) for number in range(20)]
    signed(tmp_path / "at_once", [texts])
    monkeypatch.setattr(signatures, "BATCH_CHARACTERS", 300)
    signed(tmp_path / "in_batches", [texts])
    marks = [artifacts.finished(tmp_path / name) for name in ("at_once", "in_batches")]
    assert marks[0]["outputs"] == marks[1]["outputs"]
    assert len(marks[0]["outputs"]) == 4


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    found = signed(tmp_path / "signatures", [["one"]])
    file = tmp_path / "signatures" / "bands" / "00000.npy"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(CorpusError, match=r"bands/00000\.npy is missing or damaged"):
        found.keys(0)
