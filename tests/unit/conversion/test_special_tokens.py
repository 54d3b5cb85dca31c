"""BOS and EOS ids from whatever files a tokenizer comes with, and tokens that do not fit the model."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from megatron_octo.conversion import special_tokens
from megatron_octo.errors import ArtifactError, ConfigError

BPE = {
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []},
    "added_tokens": [{"id": 2, "content": "<end>"}],
}
NAMES = {"bos_token": None, "eos_token": "<end>"}


def write(directory: Path, **files: Any) -> Path:
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


def ids(directory: Path) -> tuple[special_tokens.Ids, special_tokens.Ids]:
    found = special_tokens.find(directory, special_tokens.read_vocabulary(directory))
    return found.bos, found.eos


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"tokenizer": BPE, "tokenizer_config": NAMES}, (None, 2)),
        ({"tokenizer": BPE, "tokenizer_config": {"bos_token": {"content": "a"}, "eos_token": {"content": "<end>"}}}, (0, 2)),
        ({"tokenizer": BPE, "special_tokens_map": {"bos_token": "b"}, "tokenizer_config": NAMES}, (1, 2)),
        ({"tokenizer": BPE, "tokenizer_config": {"eos_token": "unheard of"}}, (None, None)),
        ({"tokenizer": {"model": {"type": "Unigram", "vocab": [["a", -1.0], ["b", -2.0]]}}, "tokenizer_config": {"eos_token": "b"}}, (None, 1)),
        ({"vocab": {"a": 0}, "added_tokens": {"<end>": 7}, "tokenizer_config": NAMES}, (None, 7)),
        ({"tokenizer_config": NAMES | {"added_tokens_decoder": {"9": {"content": "<end>"}}}}, (None, 9)),
        # a model's own files know better, and know several
        ({"tokenizer": BPE, "tokenizer_config": NAMES, "config": {"bos_token_id": 5, "eos_token_id": 6}}, (5, 6)),
        ({"tokenizer": BPE, "config": {"eos_token_id": 6}, "generation_config": {"bos_token_id": 4, "eos_token_id": [6, 7]}}, (4, [6, 7])),
        ({"tokenizer": BPE, "tokenizer_config": NAMES, "config": {"bos_token_id": None, "eos_token_id": None}}, (None, 2)),
        ({}, (None, None)),
    ],
)  # fmt: skip
def test_ids(tmp_path: Path, files: dict[str, Any], found: tuple[Any, Any]) -> None:
    assert ids(write(tmp_path, **files)) == found


def test_ids_of_a_tokenizer_that_transformers_wrote(tmp_path: Path) -> None:
    inside = Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    judge = PreTrainedTokenizerFast(tokenizer_object=inside, bos_token="<begin>", eos_token="<end>")
    judge.save_pretrained(tmp_path)
    assert ids(tmp_path) == (judge.bos_token_id, judge.eos_token_id) == (2, 3)
    assert special_tokens.read_vocabulary(tmp_path) == judge.get_vocab()


@pytest.mark.parametrize("vocab_size", [3, 100])
def test_fewer_tokens_than_rows_are_usual(tmp_path: Path, vocab_size: int) -> None:
    vocabulary = special_tokens.read_vocabulary(write(tmp_path, tokenizer=BPE))
    special_tokens.require_fit(vocabulary, vocab_size=vocab_size, directory=tmp_path)
    special_tokens.require_fit({}, vocab_size=vocab_size, directory=tmp_path)


def test_more_tokens_than_rows_are_refused(tmp_path: Path) -> None:
    vocabulary = special_tokens.read_vocabulary(write(tmp_path, tokenizer=BPE))
    with pytest.raises(
        ConfigError, match=r"goes up to id 2 and the model has 2 tokens; name the tokenizer .* --tokenizer"
    ):
        special_tokens.require_fit(vocabulary, vocab_size=2, directory=tmp_path)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", POINTER, "is a pointer of Git LFS, not the file; fetch it with `git lfs pull`"),
        ("tokenizer.model", POINTER, "is a pointer of Git LFS"),
        ("generation_config.json", POINTER, "is a pointer of Git LFS"),
        ("tokenizer_config.json", '{"eos_token": ', "cannot read .*: Expecting value.*; fetch it again"),
        ("generation_config.json", "[1]", "holds no JSON object; fetch it again"),
        ("gone.json", None, "cannot read .*: No such file"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_text(content)
    with pytest.raises(ArtifactError, match=message) as refusal:
        special_tokens.require_readable({name: file})
    assert str(file) in str(refusal.value)


@pytest.mark.parametrize("content", ["", POINTER, "[]"])
def test_a_vocabulary_that_cannot_be_read_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"tokenizer\.json.* fetch it"):
        special_tokens.read_vocabulary(tmp_path)


def test_a_directory_without_a_vocabulary_has_no_tokenizer(tmp_path: Path) -> None:
    write(tmp_path, tokenizer_config=NAMES)
    assert special_tokens.files(tmp_path) == {}
    write(tmp_path, tokenizer=BPE, other={})
    (tmp_path / "merges.txt").write_text("")
    assert set(special_tokens.files(tmp_path)) == {"tokenizer.json", "tokenizer_config.json", "merges.txt"}
