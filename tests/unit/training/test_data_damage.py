"""Damaged corpora: at opening what sizes and ends tell, while reading what tokens and documents tell, always by file name."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from written_shards import VOCAB_SIZE, shard

from megatron_octo import artifacts
from megatron_octo.config import to_dict
from megatron_octo.errors import CorpusError
from megatron_octo.shards import HEADER, MANIFEST, Manifest, ShardReader, ShardWriter, bin_path, idx_path, open_corpus
from megatron_octo.training.blend import blend
from megatron_octo.training.data import SampleOrder, TokenStream


def write_corpus(directory: Path) -> Path:
    """Two shards of three documents each, tokens 0 to 19 and 20 to 39."""
    directory.mkdir()
    shards = []
    for number, first in enumerate((0, 20)):
        with ShardWriter(directory / f"web-{number}", vocab_size=VOCAB_SIZE) as writer:
            writer.add(np.arange(first, first + 20), np.array([7, 6, 7]))
        shards.append(writer.shard())
    manifest = Manifest(
        corpus="web", tokenizer_sha256="0", vocab_size=VOCAB_SIZE, engine="none", engine_version="0", bos_id=None, eos_id=None,
        prepend_bos=False, append_eod=False, shuffle_seed=None, documents=6, empty_documents=0, skipped_lines=0,
        checked_documents=0, mismatched_documents=0, tokens=40, text_bytes=40, shards=tuple(shards),
    )  # fmt: skip
    artifacts.write_json(directory / MANIFEST, to_dict(manifest))
    return directory


def overwrite(file: Path, at: int, data: bytes) -> None:
    content = bytearray(file.read_bytes())
    content[at : at + len(data)] = data
    file.write_bytes(content)


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


def other_index(corpus: Path) -> None:
    """That of another shard with as many documents."""
    shard(corpus / "other", [7, 6, 8])
    idx_path(corpus / "other").rename(corpus / "web-1.idx")


def shorter_shard(corpus: Path) -> None:
    """A sound pair, but not the one in the manifest."""
    shard(corpus / "web-1", [7, 6])


#: Where numbers of an index of three sequences stand.
LENGTHS, POINTERS, MARKS = HEADER.size, HEADER.size + 12, HEADER.size + 36

AT_OPENING: dict[str, tuple[Callable[[Path], object], str]] = {
    "bin cut off": (
        lambda corpus: cut(corpus / "web-1.bin", 30),
        r"web-1\.bin has 30 bytes where its index promises 20 uint16 tokens = 40 bytes; the file is cut off .* tokenize",
    ),
    "bin empty": (lambda corpus: cut(corpus / "web-1.bin", 0), r"web-1\.bin has 0 bytes where its index promises 20 uint16"),
    "bin missing": (lambda corpus: (corpus / "web-1.bin").unlink(), r"cannot read the shard .*web-1\.bin: No such file"),
    "idx cut off": (
        lambda corpus: cut(corpus / "web-1.idx", 94),
        r"web-1\.idx has 94 bytes where 3 sequences and 4 document marks make 102; tokenize the corpus again",
    ),
    "idx without header": (lambda corpus: cut(corpus / "web-1.idx", 20), r"web-1\.idx is no Megatron index .*; tokenize"),
    "idx empty": (lambda corpus: cut(corpus / "web-1.idx", 0), r"web-1\.idx is no Megatron index .*; tokenize"),
    "idx missing": (lambda corpus: (corpus / "web-1.idx").unlink(), r"cannot read the shard index .*web-1\.idx: No such"),
    "magic": (lambda corpus: overwrite(corpus / "web-1.idx", 0, b"x"), r"web-1\.idx is no Megatron index .*; tokenize"),
    "dtype": (lambda corpus: overwrite(corpus / "web-1.idx", 17, b"\x07"), r"web-1\.idx: version 1, dtype code 7; .*expected"),
    "idx of another shard": (other_index, r"web-1\.bin has 40 bytes where its index promises 21 uint16 tokens = 42"),
    "last offset": (
        lambda corpus: overwrite(corpus / "web-1.idx", POINTERS + 16 + 7, b"\xff"),
        r"web-1\.idx: sequences do not begin at byte 0 or end before it; tokenize",
    ),
    "last mark": (
        lambda corpus: overwrite(corpus / "web-1.idx", MARKS + 24, b"\x02"),
        r"web-1\.idx: document marks do not run from 0 to 3; tokenize",
    ),
    "another shard": (
        shorter_shard,
        r"web-1 holds 2 documents of 13 tokens where .*manifest\.json says 3 of 20; tokenize the corpus again",
    ),
    "manifest missing": (lambda corpus: (corpus / MANIFEST).unlink(), r"is no tokenised corpus \(no manifest\.json\); run"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), AT_OPENING.values(), ids=AT_OPENING.keys())
def test_found_at_opening(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    corpus = write_corpus(tmp_path / "web")
    assert len(open_corpus(corpus).shards) == 2
    damage(corpus)
    with pytest.raises(CorpusError, match=message):
        open_corpus(corpus)


def order_of(corpus: Path, *, document_starts: bool = False) -> SampleOrder:
    streams = [TokenStream(name="web", shards=open_corpus(corpus).shards, seq_length=4)]
    return SampleOrder(blend=blend(web=1.0), streams=streams, seed=1, phase="p", document_starts=document_starts)


def test_a_flipped_bit_outside_the_vocabulary_is_found_where_it_is_read(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "web")
    # Token 25 of the corpus, the sixth of the second shard, in window 6 of four tokens each.
    overwrite(corpus / "web-1.bin", 11, b"\x80")
    message = r"web-1\.bin: token 5 is 32,793, outside the vocabulary of 512 \(window 6 of corpus 'web'\); the file is damaged"
    stream = order_of(corpus).streams[0]
    with pytest.raises(CorpusError, match=message):
        stream.window(6)
    for other in {*range(stream.num_windows)} - {6}:
        stream.window(other)
    with pytest.raises(CorpusError, match=r"web-1\.bin"):
        order_of(corpus).read(np.arange(stream.num_windows))


def test_a_file_cut_off_after_opening_is_named(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "web")
    stream = order_of(corpus).streams[0]
    cut(corpus / "web-1.bin", 10)
    with pytest.raises(CorpusError, match=r"web-1\.bin was cut off while it was being read; tokenize the corpus again"):
        stream.window(6)


def test_a_negative_token_is_outside_the_vocabulary(tmp_path: Path) -> None:
    large = 100_000
    with ShardWriter(tmp_path / "web", vocab_size=large) as writer:
        writer.add(np.arange(9), np.array([9]))
    overwrite(bin_path(tmp_path / "web"), 4 * 6 + 3, b"\x80")
    reader = ShardReader.attach(tmp_path / "web", vocab_size=large)
    stream = TokenStream(name="web", shards=(reader,), seq_length=4)
    stream.window(0)
    with pytest.raises(CorpusError, match=r"web\.bin: token 6 is -2,147,483,642, outside the vocabulary of 100,000"):
        stream.window(1)


@pytest.mark.parametrize(
    ("at", "data"),
    [
        (MARKS + 16, b"\x00"),  # document 2 begins with sequence 0
        (MARKS + 15, b"\x80"),  # ... or with a negative one
        (POINTERS + 8, b"\xff"),  # sequence 1 begins beyond the next
        (LENGTHS + 4, b"\x07"),  # sequence 1 ends after the next has begun
    ],
)  # fmt: skip
def test_damage_inside_an_index_is_found_where_documents_are_asked_for(tmp_path: Path, at: int, data: bytes) -> None:
    corpus = write_corpus(tmp_path / "web")
    overwrite(corpus / "web-1.idx", at, data)
    order = order_of(corpus, document_starts=True)
    with pytest.raises(CorpusError, match=r"web-1\.idx is damaged between the documents .* tokenize the corpus again"):
        order.read(np.arange(order.streams[0].num_windows))
