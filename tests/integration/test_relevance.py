"""Annotations to a classifier to the documents it keeps, as processes."""

import dataclasses
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard
from datatrove.data import Document

from megatron_octo import artifacts
from megatron_octo.config import dumps
from megatron_octo.curation import documents
from megatron_octo.curation.config import Classifier, InParts, Relevance
from megatron_octo.curation.scoring import classifier_run, relevance_run
from megatron_octo.errors import ConfigError

PARTS, DOCUMENTS_PER_PART = 3, 60
#: Small and quick; many epochs, since there are few documents.
TRAINING = Classifier(dim=8, buckets=5_000, min_count=1, epochs=10, lr=0.5)
WORDS = {
    True: ["let", "sum", "prime", "divides", "equation", "proof", "angle", "solve", "root", "integer", "equals"],
    False: ["kite", "boat", "garden", "market", "friend", "coat", "lamp", "story", "river", "school", "recipe"],
}
YEARS = ("2014", "2019", "2023")


def text_of(source: random.Random, *, is_math: bool) -> str:
    """Mostly words of its kind, some of the other's, and numbers."""
    drawn = source.choices(WORDS[is_math], k=30) + source.choices(WORDS[not is_math], k=8)
    source.shuffle(drawn)
    return f"{' '.join(drawn).capitalize()}.\nPage {source.randint(1, 99)}"


@pytest.fixture(scope="module")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("annotations") / "stage"
    source = random.Random(1)
    with artifacts.stage(out, kind="annotations", config=InParts(parts=1)):
        rows = [
            {
                "id": f"a{n}",
                "year": YEARS[n % 3],
                "score": n % 6,
                "text": text_of(source, is_math=n % 6 >= 3),
                "answer": "",
            }
            for n in range(600)
        ]
        (out / classifier_run.ANNOTATIONS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return out


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every third document is about mathematics and says so in its id."""
    out = tmp_path_factory.mktemp("read") / "stage"
    source = random.Random(2)
    with artifacts.stage(out, kind="documents", config=InParts(parts=PARTS)):
        (out / documents.FOLDER).mkdir()
        for part in range(PARTS):
            lines = b"".join(line(source, part, n) for n in range(DOCUMENTS_PER_PART))
            documents.file_of(out, part).write_bytes(zstandard.compress(lines))
    return out


def line(source: random.Random, part: int, number: int) -> bytes:
    kind = "other" if number % 3 else "math"
    text = text_of(source, is_math=kind == "math")
    return documents.line_of(f"{kind}/{part}/{number}", text, {"year": YEARS[number % 3]})


def made_by_process(module: str, config: Any, out: Path) -> dict[str, Any]:
    """The stage's mark."""
    file = out.with_suffix(".json")
    file.write_text(dumps(config))
    command = [sys.executable, "-m", f"megatron_octo.curation.{module}", str(file), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return artifacts.finished(out)


@pytest.fixture(scope="module")
def trained(annotations: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("classifier") / "stage"
    made_by_process("scoring.classifier_run", dataclasses.replace(TRAINING, annotations=annotations), out)
    return out


def test_a_classifier_and_its_report(trained: Path, annotations: Path, tmp_path: Path) -> None:
    mark = artifacts.finished(trained)
    assert sorted(mark["outputs"]) == ["curves.png", "curves.svg", "model.bin", "thresholds.csv"]
    counts = mark["counts"]
    assert (counts["documents"], counts["positives"], counts["held_out_documents"]) == (600, 300, 60)
    assert counts["held_out_precision"] > 0.95
    assert counts["held_out_recall"] > 0.95
    again = made_by_process(
        "scoring.classifier_run", dataclasses.replace(TRAINING, annotations=annotations), tmp_path / "again"
    )
    assert again["outputs"] == mark["outputs"]


def test_a_model_without_an_opinion_is_told(
    annotations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(TRAINING, annotations=annotations, epochs=1, lr=0.001)
    classifier_run.run(config, tmp_path / "out", force=False)
    assert "score between 0.5" in capsys.readouterr().err
    classifier_run.run(dataclasses.replace(TRAINING, annotations=annotations), tmp_path / "other", force=False)
    assert "warning" not in capsys.readouterr().err


def test_what_it_keeps_is_the_same_with_any_number_of_workers(trained: Path, read: Path, tmp_path: Path) -> None:
    marks = [
        made_by_process(
            "scoring.relevance_run",
            Relevance(documents=read, classifier=trained, parts=PARTS, workers=workers),
            tmp_path / f"relevant{workers}",
        )
        for workers in (1, 2)
    ]
    assert marks[0]["outputs"] == marks[1]["outputs"]
    assert marks[0]["counts"] == marks[1]["counts"]
    kept = list(kept_of(tmp_path / "relevant1"))
    assert {document.id.partition("/")[0] for document in kept} == {"math"}
    assert len(kept) > 0.95 * PARTS * DOCUMENTS_PER_PART / 3
    assert all(0.4 <= document.metadata["finemath_score"] <= 1 for document in kept)
    assert [document.id for document in kept] == sorted(
        (document.id for document in kept), key=lambda name: [int(each) for each in name.split("/")[1:]]
    )


def test_rejects_say_why(trained: Path, read: Path, tmp_path: Path) -> None:
    out = tmp_path / "relevant"
    config = Relevance(documents=read, classifier=trained, parts=PARTS, threshold=0.999)
    counts = made_by_process("scoring.relevance_run", config, out)["counts"]
    dropped = [row for part in range(PARTS) for row in rejected(out, part)]
    assert {row["metadata"]["filter_reason"] for row in dropped} == {"score_below_threshold"}
    assert all(row["metadata"]["finemath_score"] < 0.999 for row in dropped)
    assert counts["relevant_dropped_score_below_threshold"] == len(dropped)
    assert len(dropped) + len(list(kept_of(out))) == PARTS * DOCUMENTS_PER_PART == counts["relevant_total"]


def kept_of(out: Path) -> Iterator[Document]:
    for part in range(PARTS):
        yield from documents.read(out, part)


def rejected(out: Path, part: int) -> Iterator[dict[str, Any]]:
    packed = (out / documents.REJECTS / "relevant" / f"{part:05d}.jsonl.zst").read_bytes()
    lines = zstandard.ZstdDecompressor().stream_reader(packed).read().splitlines()
    yield from map(orjson.loads, lines)


def test_other_parts_and_other_stages_are_refused(trained: Path, read: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="parts=3"):
        relevance_run.run(Relevance(documents=read, classifier=trained, parts=4), tmp_path / "a", force=False)
    with pytest.raises(ConfigError, match="not a classifier"):
        relevance_run.run(Relevance(documents=read, classifier=read, parts=PARTS), tmp_path / "b", force=False)
