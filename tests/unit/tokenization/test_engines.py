"""All engines give the ids of their oracle, whatever form the text comes in; what none of them reads is refused with a way out."""

import json
import random
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from made_tokenizers import train_sentencepiece, write_tokenizer_json
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
from transformers import AutoTokenizer

from megatron_octo.errors import ConfigError
from megatron_octo.tokenization.config import EngineName
from megatron_octo.tokenization.engines import huggingface, open_engine
from megatron_octo.tokenization.engines.gigatoken import GigatokenEngine
from megatron_octo.tokenization.engines.huggingface import HuggingFaceEngine
from megatron_octo.tokenization.identity import tokenizer_files, tokenizer_sha256
from megatron_octo.tokenization.tokenizer_files import find
from megatron_octo.tokenization.unsettled import UNICODE_17

TEXTS = ["the cat", "", "déjà 123\r\n\n  x", "<|end_of_text|>the<|end_of", "漢字 👍🏽", "a <s> b", "\u088f\U000323b0"]
ENGINES = [
    ("tokenizer_json", EngineName.GIGATOKEN),
    ("tokenizer_json", EngineName.FASTOKENS),
    ("tokenizer_json", EngineName.TOKENIZERS),
    ("sentencepiece_model", EngineName.GIGATOKEN),
    ("sentencepiece_model", EngineName.SENTENCEPIECE),
    ("ranks_file", EngineName.GIGATOKEN),
    ("ranks_file", EngineName.FASTOKENS),
    ("ranks_file", EngineName.TIKTOKEN),
]
ORACLES = {
    "tokenizer_json": EngineName.TOKENIZERS,
    "sentencepiece_model": EngineName.SENTENCEPIECE,
    "ranks_file": EngineName.TIKTOKEN,
}
FORMS = {
    "list": lambda texts: texts,
    "string": pyarrow.array,
    "large_string": lambda texts: pyarrow.array(texts, pyarrow.large_string()),
    "slice": lambda texts: pyarrow.array(["é before", *texts, "after"])[1:-1],
    "large slice": lambda texts: pyarrow.array(["before", *texts, "after"], pyarrow.large_string())[1:-1],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kind", "name"), ENGINES)
def test_every_engine_agrees_with_its_oracle(
    kind: str, name: EngineName, form: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(kind)
    engine, oracle = open_engine(path, name), open_engine(path, ORACLES[kind])
    tokens, lengths = engine.encode(FORMS[form](TEXTS))
    expected_tokens, expected_lengths = oracle.encode(TEXTS)
    assert engine.name == name.value
    assert (tokens.dtype, lengths.dtype) == (np.uint32, np.int64)
    assert lengths.tolist() == expected_lengths.tolist()
    assert tokens.tolist() == expected_tokens.tolist()
    assert (engine.vocab_size, engine.bos_id, engine.eos_id) == (oracle.vocab_size, oracle.bos_id, oracle.eos_id)


@pytest.mark.parametrize(("kind", "name"), ENGINES)
@pytest.mark.parametrize(
    "nothing", [[], pyarrow.array([], pyarrow.string()), pyarrow.array([], pyarrow.large_string())]
)
def test_no_documents_give_no_tokens(
    kind: str, name: EngineName, nothing: object, request: pytest.FixtureRequest
) -> None:
    tokens, lengths = open_engine(request.getfixturevalue(kind), name).encode(nothing)
    assert (len(tokens), len(lengths)) == (0, 0)


@pytest.mark.parametrize("name", [EngineName.GIGATOKEN, EngineName.FASTOKENS, EngineName.TIKTOKEN])
def test_ids_of_ranks(ranks_file: Path, name: EngineName) -> None:
    engine = open_engine(ranks_file, name)
    tokens, lengths = engine.encode(["the cat", "<|end_of_text|>", "1234<|eot_id|>"])
    assert lengths.tolist() == [2, 1, 3]
    assert tokens.tolist() == [257, 261, 269, 263, ord("4"), 277]
    assert (engine.vocab_size, engine.bos_id, engine.eos_id) == (524, 268, 269)


def test_ranks_take_pattern_and_special_tokens_from_the_settings(ranks_file: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes((ranks_file / "tokenizer.model").read_bytes())
    settings = {"pat_str": r"\S|\s", "added_tokens_decoder": {"300": {"content": "[END]"}}, "eos_token": "[END]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    engine = open_engine(tmp_path, EngineName.TIKTOKEN)
    assert engine.encode(["the[END]"])[0].tolist() == [ord("t"), ord("h"), ord("e"), 300]
    assert (engine.vocab_size, engine.bos_id, engine.eos_id) == (301, None, 300)
    assert tokenizer_sha256(tmp_path) != tokenizer_sha256(ranks_file)
    assert open_engine(tmp_path, None).name == "fastokens"  # gigatoken does not know that pattern
    with pytest.raises(ConfigError, match="knows no pattern"):
        open_engine(tmp_path, EngineName.GIGATOKEN)


def test_special_token_names_come_from_the_settings(tokenizer_json: Path) -> None:
    engine = open_engine(tokenizer_json, None)
    assert (engine.name, engine.vocab_size, engine.bos_id, engine.eos_id) == ("fastokens", 380, 0, 1)
    assert engine.encode(["<|end_of_text|><|begin_of_text|>"])[0].tolist() == [1, 0]


@pytest.mark.parametrize(("kind", "expected"), [("tokenizer_json", 1), ("ranks_file", 1), ("sentencepiece_model", 5)])
def test_spelled_out_special_tokens_stay_text_for_sentencepiece_alone(
    kind: str, expected: int, request: pytest.FixtureRequest
) -> None:
    spelled = "</s>" if kind == "sentencepiece_model" else "<|end_of_text|>"
    for name in (None, ORACLES[kind]):
        assert open_engine(request.getfixturevalue(kind), name).encode([spelled])[1].tolist() == [expected]


#: What Llama-3's pattern treats differently side by side.
BITS = [
    *"aS'1", *" \n\r\t,。，漢かé", "  ", "\u0301", "\u3099", "\u00a0", "\u1680", "\u017f", "\u0130", "123", "'ll", "'RE", "👍🏽",
    "<|end_of_text|>", "<|end", "the cat",
]  # fmt: skip


def test_cutting_a_document_changes_no_id(
    tokenizer_json: Path, byte_level_bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface, "PART_CHARACTERS", 1)
    source = random.Random(11)
    texts = ["".join(source.choices(BITS, k=source.randrange(40))) for _ in range(3_000)]
    tokens, lengths = HuggingFaceEngine(find(tokenizer_json)).encode(texts)
    whole = [encoding.ids for encoding in byte_level_bpe.encode_batch(texts, add_special_tokens=False)]
    assert lengths.tolist() == [len(ids) for ids in whole]
    assert tokens.tolist() == list(chain.from_iterable(whole))


def test_a_long_document_goes_to_the_oracle_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "PART_CHARACTERS", 5)
    parts = list(huggingface._parts("the cat\n\nsat. 1 2 3 4 5 6 mats 7"))
    assert parts == ["the cat", "\n\nsat", ". 1 2 3 4 5 6 mats", " 7"]


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": normalizers.Prepend("x")},
        {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)},
        {"token": AddedToken("the cat")},
        {"token": AddedToken("END", rstrip=True)},
    ],
    ids=["normalizer", "pattern", "token across a cut", "token that takes spaces"],
)
def test_where_a_cut_could_change_ids_nothing_is_cut(
    change: dict[str, Any], byte_level_bpe: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Tokenizer.from_str(byte_level_bpe.to_str())
    if "token" in change:
        other.add_tokens([change["token"]])
    else:
        [(part, value)] = change.items()
        setattr(other, part, value)
    monkeypatch.setattr(huggingface, "PART_CHARACTERS", 1)
    text = "the cat sat, the END \n the cat"
    tokens, _ = HuggingFaceEngine(find(write_tokenizer_json(tmp_path / "tokenizer", other))).encode([text])
    assert tokens.tolist() == other.encode(text, add_special_tokens=False).ids


def test_truncation_and_padding_of_the_file_are_ignored(byte_level_bpe: Tokenizer, tmp_path: Path) -> None:
    cutting = Tokenizer.from_str(byte_level_bpe.to_str())
    cutting.enable_truncation(2)
    cutting.enable_padding(length=8)
    path = write_tokenizer_json(tmp_path / "tokenizer", cutting)
    for name in (EngineName.GIGATOKEN, EngineName.FASTOKENS, EngineName.TOKENIZERS):
        assert open_engine(path, name).encode(["1 2 3 4", "a"])[1].tolist() == [7, 1]


def test_what_no_fast_engine_reads_goes_to_the_oracle_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = train_sentencepiece(tmp_path / "tokenizer", model_type="unigram", normalization="identity")
    assert open_engine(path, None).name == "sentencepiece"
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert "about 7 MB of text per second and core" in warning
    assert "only BPE sentencepiece models are supported" in warning
    with pytest.raises(ConfigError, match="gigatoken cannot read"):
        open_engine(path, EngineName.GIGATOKEN)


def test_an_engine_that_differs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """gigatoken composes accents differently from SentencePiece where a model asks for NFKC."""
    path = train_sentencepiece(tmp_path / "tokenizer", model_type="bpe", normalization="nmt_nfkc")
    message = r"gigatoken .* differs from sentencepiece .* becomes, from token \d+ on, .* use --engine sentencepiece"
    with pytest.raises(ConfigError, match=message):
        open_engine(path, EngineName.GIGATOKEN)
    assert open_engine(path, None).name == "sentencepiece"
    assert "differs from sentencepiece" in capsys.readouterr().err


def test_missing_package_names_the_extra(tokenizer_json: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "megatron_octo.tokenization.engines.fastokens", raising=False)
    monkeypatch.setitem(sys.modules, "fastokens", None)
    with pytest.raises(
        ConfigError, match=r"fastokens cannot be imported \(.*fastokens.*\); pip install megatron-octo\[data\]"
    ):
        open_engine(tokenizer_json, EngineName.FASTOKENS)


def test_engine_of_another_kind_is_refused(tokenizer_json: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"tiktoken reads no tokenizer\.json.*use one of fastokens, gigatoken, tokenizers"
    ):
        open_engine(tokenizer_json, EngineName.TIKTOKEN)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has none of tokenizer.json"),
        ({"tokenizer.json": "{"}, "tokenizers cannot read the tokenizer"),
        ({"tokenizer.model": "hello"}, "neither a SentencePiece model nor"),
        ({"tokenizer.model": "YQ== 0\nYg= 1\n"}, "tokenizer.model, line 2: not a token in base64"),
        ({"tokenizer.model": "YQ== 0\n", "tokenizer_config.json": "{"}, "cannot read .*tokenizer_config.json"),
        (
            {"tokenizer.model": "YQ== 0\n", "tokenizer_config.json": '{"added_tokens_decoder": {"1": "x"}}'},
            "added_tokens_decoder must be",
        ),
    ],
)
def test_broken_tokenizers_are_refused(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message):
        open_engine(tmp_path, None)


def test_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist; name a directory with"):
        open_engine(tmp_path / "nothing", None)


def test_gigatoken_differs_only_where_documents_are_routed(tokenizer_json: Path) -> None:
    """A sample of all code points, and both neighbours of every range that is known to differ."""
    fast, oracle = GigatokenEngine(find(tokenizer_json)), HuggingFaceEngine(find(tokenizer_json))
    known = set(chain.from_iterable(range(first, last + 1) for first, last in UNICODE_17))
    sample = random.Random(7).sample([*range(0xD800), *range(0xE000, 0x110000)], 5_000)
    edges = chain.from_iterable((first - 1, last + 1) for first, last in UNICODE_17)
    texts = [f"a{chr(point)}b 1{chr(point)}2 {chr(point)}" for point in {*sample, *edges} - known]
    assert fast.encode(texts)[0].tolist() == oracle.encode(texts)[0].tolist()
    assert fast.unsettled is not None
    assert fast.unsettled.find(texts) == []
    routed = [f"x {chr(point)}" for point in sorted(known)]
    assert fast.unsettled.find(routed) == list(range(4_699))
    assert fast.unsettled.find(pyarrow.array(["é", *routed])[1:]) == list(range(4_699))


def test_identity_survives_saving_again(tokenizer_json: Path, tmp_path: Path) -> None:
    AutoTokenizer.from_pretrained(tokenizer_json).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() != (tokenizer_json / "tokenizer.json").read_bytes()
    assert tokenizer_sha256(tmp_path) == tokenizer_sha256(tokenizer_json)


@pytest.mark.parametrize("style", ["strings", "without defaults", "with a post-processor", "without a decoder"])
def test_identity_ignores_how_the_file_is_written(style: str, tokenizer_json: Path, tmp_path: Path) -> None:
    content = json.loads((tokenizer_json / "tokenizer.json").read_text())
    if style == "strings":
        content["model"]["merges"] = [" ".join(merge) for merge in content["model"]["merges"]]
    elif style == "without defaults":
        del content["model"]["byte_fallback"], content["model"]["ignore_merges"]
    elif style == "without a decoder":
        content["decoder"] = None
    else:
        content["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert tokenizer_sha256(tmp_path) == tokenizer_sha256(tokenizer_json)


def test_identity_sees_a_missing_merge(tokenizer_json: Path, tmp_path: Path) -> None:
    content = json.loads((tokenizer_json / "tokenizer.json").read_text())
    del content["model"]["merges"][-1]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert tokenizer_sha256(tmp_path) != tokenizer_sha256(tokenizer_json)


def test_files_that_matter(tokenizer_json: Path, ranks_file: Path) -> None:
    assert tokenizer_files(tokenizer_json) == {
        "tokenizer.json": tokenizer_json / "tokenizer.json",
        "tokenizer_config.json": tokenizer_json / "tokenizer_config.json",
    }
    assert tokenizer_files(ranks_file / "tokenizer.model") == {"tokenizer.model": ranks_file / "tokenizer.model"}


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
@pytest.mark.parametrize("engine", ["fastokens", "gigatoken", "tokenizers"])
def test_engines_use_one_thread(tokenizer_json: Path, engine: str) -> None:
    """Else one worker would fill several cores, and two workers would wait for each other."""
    script = f"""
import os
from pathlib import Path
from megatron_octo import workers
workers.one_thread_each()
from megatron_octo.tokenization.config import EngineName
from megatron_octo.tokenization.engines import open_engine
before = len(os.listdir("/proc/self/task"))
encoder = open_engine(Path({str(tokenizer_json)!r}), EngineName({engine!r}))
encoder.encode(["some words to encode " * 200] * 2000)
print(len(os.listdir("/proc/self/task")) - before)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "0\n"
