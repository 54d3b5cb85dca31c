"""Which documents are looked at, how their text is got back, and what is counted."""

import base64
import io
import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from megatron_octo.evaluation import overlap
from megatron_octo.evaluation.overlap import Checker, Job, decoder, tally
from megatron_octo.shards import Corpus, Manifest, Shard, ShardReader, ShardWriter

#: Documents of the shards of a corpus; the second shard has none.
SHARDS = (5, 0, 12, 3)
QUESTION = "how many eggs are left when she has eaten nine of the forty"
TEXTS = ["Nothing here.", f"Ask: {QUESTION.upper()}?", "Naïve text, no question."]


def write_corpus(directory: Path, documents: list[list[list[int]]]) -> Corpus:
    """A corpus of one shard per list of documents, without its stage."""
    shards = []
    for number, shard in enumerate(documents):
        with ShardWriter(directory / f"web-{number}", vocab_size=1_000) as writer:
            tokens = np.array([token for document in shard for token in document], np.uint16)
            writer.add(tokens, np.array([len(document) for document in shard], np.int32))
        shards.append(writer.shard())
    return Corpus(
        manifest=manifest(shards), shards=tuple(ShardReader.attach(directory / shard.name) for shard in shards)
    )


def manifest(shards: list[Shard]) -> Manifest:
    return Manifest(
        corpus="web", tokenizer_sha256="", vocab_size=1_000, engine="", engine_version="", bos_id=None, eos_id=None, prepend_bos=False,
        append_eod=False, shuffle_seed=None, documents=sum(shard.documents for shard in shards), empty_documents=0, skipped_lines=0,
        checked_documents=0, mismatched_documents=0, tokens=0, text_bytes=0, shards=tuple(shards),
    )  # fmt: skip


def looked_at(corpus: Corpus, max_documents: int | None) -> list[int]:
    """Numbers within the corpus."""
    return [job.before + number for job in overlap.jobs(corpus, max_documents) for number in job.documents]


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return write_corpus(tmp_path, [[[1, 2]] * count for count in SHARDS])


@pytest.mark.parametrize("job_documents", [1, 4, 1_000])
@pytest.mark.parametrize("most", [None, 20, 21])
def test_all_documents(monkeypatch: pytest.MonkeyPatch, corpus: Corpus, most: int | None, job_documents: int) -> None:
    monkeypatch.setattr(overlap, "JOB_DOCUMENTS", job_documents)
    assert looked_at(corpus, most) == list(range(20))


@pytest.mark.parametrize(
    ("most", "expected"),
    [(1, [0]), (2, [0, 10]), (4, [0, 5, 10, 15]), (7, [0, 2, 5, 8, 11, 14, 17]), (19, list(range(19)))],
)
def test_an_even_sample(corpus: Corpus, most: int, expected: list[int]) -> None:
    assert looked_at(corpus, most) == expected
    assert overlap.num_sampled(corpus, most) == most


def test_numbers_lie_within_their_shard(corpus: Corpus) -> None:
    for job in overlap.jobs(corpus, 7):
        assert all(0 <= number < ShardReader.attach(job.shard).num_documents for number in job.documents)


def test_a_billion_documents_do_not_overflow() -> None:
    job = Job(shard=Path(), before=0, total=10**10, sampled=10**10 - 1, samples=range(10**10 - 3, 10**10 - 1))
    assert job.documents == [10**10 - 3, 10**10 - 2]


def byte_level(directory: Path) -> Path:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=300, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


def sentencepiece_model(directory: Path) -> Path:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 5), model_writer=model, vocab_size=320, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", hard_vocab_limit=False, num_threads=1, minloglevel=2,
    )  # fmt: skip
    (directory / "tokenizer.model").write_bytes(model.getvalue())
    return directory


def ranks(directory: Path) -> Path:
    """One token per byte."""
    lines = (f"{base64.b64encode(bytes([byte])).decode()} {byte}\n" for byte in range(256))
    (directory / "tokenizer.model").write_text("".join(lines))
    return directory


def encode_byte_level(tokenizer: Path, text: str) -> list[int]:
    ids: list[int] = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).encode(text).ids
    return [*ids, 0]


def encode_sentencepiece(tokenizer: Path, text: str) -> list[int]:
    model = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer / "tokenizer.model"))
    return [*model.encode(text), model.eos_id()]


def encode_bytes(tokenizer: Path, text: str) -> list[int]:
    return list(text.encode())


KINDS = [(byte_level, encode_byte_level), (sentencepiece_model, encode_sentencepiece), (ranks, encode_bytes)]


@pytest.mark.parametrize(("make", "encode"), KINDS)
def test_text_of_tokens(tmp_path: Path, make, encode) -> None:
    tokenizer = make(tmp_path)
    assert decoder(tokenizer)([encode(tokenizer, text) for text in TEXTS]) == TEXTS


def test_bytes_decode_as_the_library_does(tmp_path: Path) -> None:
    """Any ids: halves of characters, added tokens that are special, plain, outside the alphabet of bytes, and holes."""
    tokenizer = Tokenizer.from_file(str(byte_level(tmp_path) / "tokenizer.json"))
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.add_tokens(["plain", "mit Leerzeichen", "漢字", "é"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    source = random.Random(1234)
    batch = [source.choices(range(tokenizer.get_vocab_size() + 5), k=50) for _ in range(500)]
    assert decoder(tmp_path)(batch) == tokenizer.decode_batch(batch)


@pytest.mark.parametrize("batch_tokens", [1, 1 << 18])
def test_a_question_in_the_second_document(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, batch_tokens: int) -> None:
    monkeypatch.setattr(overlap, "BATCH_TOKENS", batch_tokens)
    corpus = write_corpus(tmp_path, [[encode_bytes(tmp_path, text) for text in TEXTS]])
    checker = Checker(tokenizer=ranks(tmp_path), questions=["too short", QUESTION], ngram=13)
    assert [checker.check(job) for job in overlap.jobs(corpus, None)] == [{1: QUESTION}]
    assert [checker.check(job) for job in overlap.jobs(corpus, 1)] == [{}]


def test_the_first_sight_counts(tmp_path: Path) -> None:
    part, whole = " ".join(QUESTION.split()[:-1]), QUESTION
    corpus = write_corpus(tmp_path, [[encode_bytes(tmp_path, text) for text in (f"13 {part}", whole)]])
    (job,) = overlap.jobs(corpus, None)
    checker = Checker(tokenizer=ranks(tmp_path), questions=[f"13 {QUESTION}"], ngram=13)
    assert checker.check(job) == {0: f"13 {part}"}


def test_tally() -> None:
    benchmarks = {"first": ["a", "b"], "second": ["c", "d", "e", "f", "g"]}
    found = dict(zip([6, 1, 2, 5, 3], itertools.repeat("words")))
    assert tally(benchmarks, (0, 4), found) == {
        "first": {
            "questions": 2,
            "found": 1,
            "too_short": 1,
            "examples": [{"question": "b", "text": "words"}],
        },
        "second": {
            "questions": 5,
            "found": 4,
            "too_short": 1,
            "examples": [{"question": question, "text": "words"} for question in "cdf"],
        },
    }
