"""From text to tokenizer to shards, through the process entries."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from megatron_octo import artifacts
from megatron_octo.config import dumps
from megatron_octo.errors import ConfigError, CorpusError
from megatron_octo.shards import open_corpus
from megatron_octo.tokenization import run as tokenize
from megatron_octo.tokenization import train_tokenizer
from megatron_octo.tokenization.config import Tokenization, TokenizerTraining
from megatron_octo.tokenization.shuffle import shuffled

TEXTS = ["the cat has 123 hats", "", "the dog has 7 hats", "the cat sees the dog"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return file


def training(corpus: Path) -> TokenizerTraining:
    return TokenizerTraining(inputs=(corpus,), vocab_size=270, max_documents_per_input=100, model_max_length=64)


@pytest.fixture
def tokenizer(tmp_path: Path, corpus: Path) -> Path:
    train_tokenizer.run(training(corpus), tmp_path / "tokenizer", False)
    return tmp_path / "tokenizer"


def test_tokenizer_loads_in_transformers(tokenizer: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    assert (loaded.bos_token, loaded.eos_token, loaded.model_max_length) == ("<|begin_of_text|>", "<|end_of_text|>", 64)
    assert (loaded.bos_token_id, loaded.eos_token_id, len(loaded)) == (0, 1, 270)


def test_digits_stand_alone_and_nothing_is_added(tokenizer: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    assert loaded.tokenize("123") == ["1", "2", "3"]
    ids = loaded("the cat").input_ids
    assert 0 not in ids
    assert 1 not in ids


@pytest.mark.parametrize("text", ["the cat", "  naïve\n\n\tλx.x 42", "🙂 <tag> \r\n", ""])
def test_any_text_comes_back(tokenizer: Path, text: str) -> None:
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    assert loaded.decode(loaded(text).input_ids) == text


def test_tokenizer_is_the_same_in_another_process(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    (tmp_path / "config.json").write_text(dumps(training(corpus)))
    command = [sys.executable, "-m", "megatron_octo.tokenization.train_tokenizer", "config.json", "again"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tokenizer / name).read_bytes()


def test_vocabulary_must_hold_all_bytes(tmp_path: Path, corpus: Path) -> None:
    small = TokenizerTraining(inputs=(corpus,), vocab_size=257, max_documents_per_input=1, model_max_length=64)
    with pytest.raises(ConfigError, match="257 is too small"):
        train_tokenizer.run(small, tmp_path / "tokenizer", False)


def documents(out: Path) -> list[list[int]]:
    shard = open_corpus(out).shards[0]
    return [shard.document(number).tolist() for number in range(shard.num_documents)]


def test_shards_hold_the_documents(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    out = tmp_path / "web"
    tokenize.run(Tokenization(corpus="web", inputs=(corpus,), tokenizer=tokenizer, shuffle_seed=None), out, False)
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    assert documents(out) == [[*loaded(text).input_ids, 1] for text in TEXTS if text]
    manifest = open_corpus(out).manifest
    assert (manifest.documents, manifest.empty_documents, manifest.vocab_size) == (3, 1, 270)
    assert manifest.text_bytes == len("".join(TEXTS))
    assert manifest.tokens == sum(map(len, documents(out)))
    assert manifest.tokenizer_sha256 == artifacts.hash_file(tokenizer / "tokenizer.json")
    assert manifest.shards[0].bin_sha256 == artifacts.hash_file(out / "web.bin")


def test_shuffle_keeps_documents_and_follows_the_seed(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    def tokenized(name: str, seed: int | None) -> list[list[int]]:
        config = Tokenization(corpus="web", inputs=(corpus,) * 5, tokenizer=tokenizer, shuffle_seed=seed)
        tokenize.run(config, tmp_path / name, False)
        return documents(tmp_path / name)

    plain, shuffled_once, shuffled_again = tokenized("plain", None), tokenized("a", 7), tokenized("b", 7)
    assert shuffled_once == shuffled_again
    assert shuffled_once != plain
    assert sorted(shuffled_once) == sorted(plain)


def test_bos_only_when_asked(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    config = Tokenization(corpus="web", inputs=(corpus,), tokenizer=tokenizer, prepend_bos=True, append_eod=False)
    tokenize.run(config, tmp_path / "web", False)
    assert all(document[0] == 0 and document[-1] != 1 for document in documents(tmp_path / "web"))


def test_corpus_without_text_leaves_no_shard(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n')
    config = Tokenization(corpus="web", inputs=(tmp_path / "empty.jsonl",), tokenizer=tokenizer)
    with pytest.raises(CorpusError, match=r"empty\.jsonl: no document with text"):
        tokenize.run(config, tmp_path / "web", False)
    assert not (tmp_path / "web").exists()


def test_missing_tokenizer(tmp_path: Path, corpus: Path) -> None:
    config = Tokenization(corpus="web", inputs=(corpus,), tokenizer=tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"cannot read the tokenizer .*nowhere"):
        tokenize.run(config, tmp_path / "web", False)


def test_shuffle_gathers_whole_documents() -> None:
    pieces = [
        (np.array([1, 1, 2], np.int32), np.array([2, 1], np.int32)),
        (np.array([3, 3, 3], np.int32), np.array([3], np.int32)),
    ]
    tokens, lengths = next(shuffled(pieces, seed=3))
    cut = np.split(tokens, np.cumsum(lengths)[:-1])
    assert sorted(part.tolist() for part in cut) == [[1, 1], [2], [3, 3, 3]]
