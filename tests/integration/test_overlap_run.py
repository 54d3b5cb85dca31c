"""Benchmarks against corpora of our own tokenisation, through the stage."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from megatron_octo import artifacts
from megatron_octo.config import dumps
from megatron_octo.errors import ArtifactError, CorpusError, ResourceError
from megatron_octo.evaluation import overlap, overlap_run
from megatron_octo.evaluation.config import Overlap, Source
from megatron_octo.ngrams import words
from megatron_octo.tokenization import run as tokenize
from megatron_octo.tokenization import train_tokenizer
from megatron_octo.tokenization.config import Tokenization, TokenizerTraining

SEED = 20_261_123
NUM_DOCUMENTS = 60
#: Of each benchmark's four questions the last is too short to tell; these are planted, in these documents of `clean` and `dirty`.
PLANTED = {7: "apples 0", 30: "boats 1", 31: "apples 2", 59: "boats 0"}
#: Planted again, without its end: what is shown is the first sight.
PLANTED_AGAIN = {50: "apples 0"}


def write_lines(file: Path, rows: Iterable[dict[str, str]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def question(about: str) -> str:
    name, number = about.split()
    who = ("Ann", "Bob", "Cleo", "Dan", "Eve", "Fay", "Gus", "Hal", "Ida", "Jan")[int(number)]
    return f"If {who} has {name}, {number} of them, and {who} gives $\\frac{{1}}{{2}}$ to {who} and {name}; how many has {who}?"


def sentence(source: random.Random) -> str:
    return " ".join(source.choices(question("apples 1").split() + question("boats 9").split(), k=60))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two benchmarks, a tokenizer, and the corpora `clean` and `dirty`, each in three shards."""
    directory = tmp_path_factory.mktemp("world")
    for name in ("apples", "boats"):
        asked = [*(question(f"{name} {number}") for number in range(3)), f"Count the {name}"]
        write_lines(directory / f"{name}.jsonl", ({"question": each, "answer": "1"} for each in asked))
    source = random.Random(SEED)
    texts = {"clean": [sentence(source) for _ in range(NUM_DOCUMENTS)]}
    texts["dirty"] = texts["clean"].copy()
    for number, about in PLANTED.items():
        texts["dirty"][number] += f". {question(about).upper().replace(' ', '  ')} {texts['clean'][number]}"
    for number, about in PLANTED_AGAIN.items():
        texts["dirty"][number] += f" {question(about)[:-10]}"
    for name, documents in texts.items():
        (directory / name).mkdir()
        for part in range(3):
            rows = ({"text": text} for text in documents[part * 20 : part * 20 + 20])
            write_lines(directory / name / f"{part}.jsonl", rows)
    make_tokenizer(directory / "tokenizer", directory / "dirty" / "0.jsonl", 300)
    for name in texts:
        make_corpus(directory, name)
    return directory


def make_tokenizer(out: Path, text: Path, vocab_size: int) -> None:
    config = TokenizerTraining(inputs=(text,), vocab_size=vocab_size, max_documents_per_input=20, model_max_length=64)
    train_tokenizer.run(config, out, False)


def make_corpus(world: Path, name: str) -> None:
    config = Tokenization(corpus=name, inputs=(world / name,), tokenizer=world / "tokenizer", shuffle_seed=None)
    tokenize.run(config, world / "shards" / name, False)


@pytest.fixture
def config(world: Path) -> Overlap:
    sources = tuple(Source(name=name, file=world / f"{name}.jsonl") for name in ("apples", "boats"))
    return Overlap(benchmarks=sources, shards=world / "shards", tokenizer=world / "tokenizer")


def test_planted_questions_are_found_and_only_they(tmp_path: Path, config: Overlap) -> None:
    overlap_run.run(config, tmp_path / "out", False)
    found = json.loads((tmp_path / "out/overlap.json").read_text())
    none = {"questions": 4, "found": 0, "too_short": 1, "examples": []}
    assert found["ngram"] == 13
    assert found["corpora"]["clean"] == {"documents": 60, "of": 60, "benchmarks": {"apples": none, "boats": none}}
    dirty = found["corpora"]["dirty"]["benchmarks"]
    for name, numbers in {"apples": (0, 2), "boats": (0, 1)}.items():
        examples = [example(f"{name} {number}") for number in numbers]
        assert dirty[name] == {"questions": 4, "found": 2, "too_short": 1, "examples": examples}
    assert artifacts.finished(tmp_path / "out")["counts"] == {"documents": 120}


def example(about: str) -> dict[str, str]:
    return {"question": question(about), "text": " ".join(words(question(about)))}


def test_more_workers_find_the_same(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, config: Overlap
) -> None:
    monkeypatch.setattr(overlap, "JOB_DOCUMENTS", 7)
    overlap_run.run(config, tmp_path / "one", False)
    overlap_run.run(dataclasses.replace(config, workers=3), tmp_path / "three", False)
    assert (tmp_path / "one/overlap.json").read_text() == (tmp_path / "three/overlap.json").read_text()
    assert "overlap dirty: 60 of 60 documents; questions found: apples 2/4, boats 2/4" in capfd.readouterr().err


def test_a_sample(tmp_path: Path, config: Overlap) -> None:
    overlap_run.run(dataclasses.replace(config, max_documents=2), tmp_path / "out", False)
    dirty = json.loads((tmp_path / "out/overlap.json").read_text())["corpora"]["dirty"]
    assert (dirty["documents"], dirty["of"]) == (2, 60)
    # Documents 0 and 30 of 60.
    assert {name: each["found"] for name, each in dirty["benchmarks"].items()} == {"apples": 0, "boats": 1}


def test_the_process_and_its_second_run(tmp_path: Path, config: Overlap) -> None:
    (tmp_path / "config.json").write_text(dumps(config))
    command = [sys.executable, "-m", "megatron_octo.evaluation.overlap_run"]
    command += [str(tmp_path / "config.json"), str(tmp_path / "out")]
    for _ in range(2):
        assert subprocess.run(command, check=False, timeout=120).returncode == 0
    write_lines(tmp_path / "other.jsonl", [{"question": question("cats 0"), "answer": "1"}])
    other = dataclasses.replace(config, benchmarks=(Source(name="apples", file=tmp_path / "other.jsonl"),))
    with pytest.raises(ArtifactError, match="another config"):
        overlap_run.run(other, tmp_path / "out", False)


def test_another_tokenizer(tmp_path: Path, world: Path, config: Overlap) -> None:
    make_tokenizer(tmp_path / "other", world / "dirty" / "1.jsonl", 310)
    with pytest.raises(CorpusError, match=r"'clean' was tokenised with another tokenizer .* give the one it was made"):
        overlap_run.run(dataclasses.replace(config, tokenizer=tmp_path / "other"), tmp_path / "out", False)
    assert not (tmp_path / "out").exists()


def test_no_corpora(tmp_path: Path, config: Overlap) -> None:
    with pytest.raises(CorpusError, match="no tokenised corpus lies below"):
        overlap_run.run(dataclasses.replace(config, shards=tmp_path), tmp_path / "out", False)


def die(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_ends_the_stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: Overlap) -> None:
    monkeypatch.setattr(overlap_run, "_check", die)
    with pytest.raises(ResourceError, match=r"a worker process died .* while it worked on .*clean-00000"):
        overlap_run.run(config, tmp_path / "out", False)
    assert not (tmp_path / "out").exists()
