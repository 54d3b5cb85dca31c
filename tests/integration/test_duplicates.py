"""Signatures, duplicates, unique: three stages on 5,000 documents with planted copies and questions, however they are run."""

import io
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import zstandard

from megatron_octo import artifacts, process
from megatron_octo.config import dumps
from megatron_octo.curation import documents
from megatron_octo.curation.config import Duplicates, InParts, Signatures, Unique
from megatron_octo.curation.copies import duplicates_run, signatures_run, unique_run
from megatron_octo.curation.data_sets import card
from megatron_octo.errors import ConfigError, CorpusError
from megatron_octo.evaluation.config import Source

pytestmark = pytest.mark.slow

SEED = 20_261_123
NUM_DOCUMENTS, NUM_PARTS = 5_000, 4
#: Of the documents, those with the same text as, nearly the same as, or a question in them besides that of the one before.
EXACT_EVERY, NEAR_EVERY, QUESTION_EVERY = 25, 40, 125
QUESTIONS = [
    "If Ann has twelve apples and gives Bob one third of them on Monday how many does she have on Tuesday morning?",
    r"What is the value of $\frac{1}{2} + \frac{1}{3} + \frac{1}{4}$ when written as a fraction in lowest terms, and why?",
]


@dataclass(frozen=True)
class World:
    documents: Path
    questions: Path
    #: Ids of what must go, by reason.
    exact: set[str]
    near: set[str]
    questioned: set[str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    directory = tmp_path_factory.mktemp("world")
    texts, exact, near, questioned = planted()
    with artifacts.stage(directory / "relevant", kind="relevant", config=InParts(parts=NUM_PARTS)):
        for part in range(NUM_PARTS):
            write_part(directory / "relevant", part, range(part, NUM_DOCUMENTS, NUM_PARTS), texts)
    questions = directory / "asked.jsonl"
    questions.write_text("".join(json.dumps({"question": each, "answer": "1"}) + "\n" for each in QUESTIONS))
    return World(directory / "relevant", questions, exact, near, questioned)


def planted() -> tuple[list[str], set[str], set[str], set[str]]:
    """Texts, and ids of copies and of those with a question; what is copied lies in the part before, or in the last."""
    source = random.Random(SEED)
    vocabulary = ["".join(source.choices("abcdefghij", k=6)) for _ in range(5_000)]
    texts: list[str] = []
    exact, near, questioned = set(), set(), set()
    for number in range(NUM_DOCUMENTS):
        words = source.choices(vocabulary, k=104)
        if number % EXACT_EVERY == 1:
            words = texts[-1].split(" ")
            exact.add(str(number))
        elif number % NEAR_EVERY == 13:  # two of the hundred shingles differ
            words = [*texts[-1].split(" ")[:-2], "other", "words"]
            near.add(str(number))
        elif number % QUESTION_EVERY == 5:
            words += source.choice(QUESTIONS).upper().split(" ")
            questioned.add(str(number))
        texts.append(" ".join(words))
    return texts, exact, near, questioned


def write_part(stage: Path, part: int, numbers: range, texts: list[str]) -> None:
    """Of an exact duplicate the white space is another."""
    lines = b"".join(
        documents.line_of(
            str(number), texts[number].replace(" ", "\n" if number % EXACT_EVERY == 1 else " "), {"year": 2020}
        )
        for number in numbers
    )
    file = documents.file_of(stage, part)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(zstandard.compress(lines))


def configs(world: World, out: Path, *, workers: int) -> tuple[Signatures, Duplicates, Unique]:
    return (
        Signatures(documents=world.documents, parts=NUM_PARTS, workers=workers),
        Duplicates(signatures=out / "signatures", workers=workers),
        Unique(
            documents=world.documents,
            duplicates=out / "duplicates",
            benchmarks=(Source(name="asked", file=world.questions),),
            parts=NUM_PARTS,
            workers=workers,
        ),
    )


def run_all(world: World, out: Path, *, workers: int) -> dict[str, Any]:
    """Hashes of what the three stages made."""
    signing, finding, dropping = configs(world, out, workers=workers)
    signatures_run.run(signing, out / "signatures", False)
    duplicates_run.run(finding, out / "duplicates", False)
    unique_run.run(dropping, out / "unique", False)
    return outputs(out)


def outputs(out: Path) -> dict[str, Any]:
    return {name: artifacts.finished(out / name)["outputs"] for name in ("signatures", "duplicates", "unique")}


@pytest.fixture(scope="module")
def unbroken(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken")
    run_all(world, out, workers=1)
    return out


def test_planted_copies_and_questions_go_and_nothing_else(world: World, unbroken: Path) -> None:
    kept = {document.id for part in range(NUM_PARTS) for document in documents.read(unbroken / "unique", part)}
    # Documents are numbered part by part: of the pairs across parts, those in part 0 stay where their origins lie in part 3.
    expected = gone(world)
    assert {str(number) for number in range(NUM_DOCUMENTS)} - kept == expected
    assert artifacts.finished(unbroken / "signatures")["counts"]["signed_documents"] == NUM_DOCUMENTS
    counts = artifacts.finished(unbroken / "unique")["counts"]
    assert counts["read_documents"] == NUM_DOCUMENTS
    assert counts["kept_documents"] == NUM_DOCUMENTS - len(expected)
    assert counts["duplicates_dropped_exact_duplicate"] == len(world.exact)
    assert counts["duplicates_dropped_near_duplicate"] == len(world.near)
    assert counts["benchmarks_dropped_benchmark_asked"] == counts["benchmarks_dropped"] > 30
    assert counts["benchmarks_questions"] == 2


def test_the_card_has_the_questions_of_each_benchmark(unbroken: Path) -> None:
    mark = artifacts.finished(unbroken / "unique")
    step = card.step_of("unique", mark)
    removed = mark["counts"]["benchmarks_dropped_benchmark_asked"]
    assert f"| asked | 2 | {removed} |" in card.text("trial", [step], last=step).split("\n")


def gone(world: World) -> set[str]:
    """Of each pair the later in the order of parts, and every document with a question that is still there."""
    place = {str(number): (number % NUM_PARTS, number) for number in range(NUM_DOCUMENTS)}
    copies = {max(name, str(int(name) - 1), key=place.__getitem__) for name in world.exact | world.near}
    return copies | world.questioned


def test_rejects_tell_what_stays(world: World, unbroken: Path) -> None:
    seen = 0
    for file in sorted((unbroken / "unique" / "rejects" / "duplicates").glob("*.jsonl.zst")):
        for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file.open("rb"))):
            row = json.loads(line)
            duplicate_of = row["metadata"]["duplicate_of"]
            assert abs(int(row["id"]) - int(duplicate_of["of"])) == 1
            assert duplicate_of["part"] == int(duplicate_of["of"]) % NUM_PARTS
            assert row["metadata"]["filter_reason"] == f"{'exact' if duplicate_of['exact'] else 'near'}_duplicate"
            seen += 1
    assert seen == len(world.exact | world.near)


def test_two_workers_make_the_same(world: World, unbroken: Path, tmp_path: Path) -> None:
    assert run_all(world, tmp_path, workers=2) == outputs(unbroken)


def test_an_array_of_two_makes_the_same(world: World, unbroken: Path, tmp_path: Path) -> None:
    signing, finding, dropping = configs(world, tmp_path, workers=1)
    for task in (1, 0):
        signatures_run.run(replace(signing, tasks=2, task=task), tmp_path / "signatures", False)
        assert artifacts.is_done(tmp_path / "signatures") is (task == 0)
    duplicates_run.run(finding, tmp_path / "duplicates", False)
    for task in (0, 1):
        unique_run.run(replace(dropping, tasks=2, task=task), tmp_path / "unique", False)
    assert outputs(tmp_path) == outputs(unbroken)


def test_a_kill_between_bands_changes_nothing(world: World, unbroken: Path, tmp_path: Path) -> None:
    signing, finding, _ = configs(world, tmp_path, workers=2)
    signatures_run.run(signing, tmp_path / "signatures", False)
    (tmp_path / "config.json").write_text(dumps(finding))
    out = tmp_path / "duplicates"
    command = [sys.executable, "-m", duplicates_run.__name__, tmp_path / "config.json", out]
    links = out / "logs" / "links"
    kill_when(command, lambda: len(list(links.glob("[!.]*.npy"))) >= 3)
    made = {file.name: file.stat().st_mtime_ns for file in links.glob("[!.]*.npy")}
    assert not artifacts.is_done(out)
    assert 3 <= len(made) < 15
    duplicates_run.run(finding, out, False)
    assert artifacts.finished(out)["outputs"] == outputs(unbroken)["duplicates"]


def kill_when(command: list[Any], is_time: Callable[[], bool]) -> None:
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL) as child:
        try:
            deadline = time.monotonic() + 120
            while not is_time():
                assert child.poll() is None, "over too soon"
                assert time.monotonic() < deadline
                time.sleep(0.002)
        finally:
            process.end(child, grace_seconds=0)


def test_other_numbers_of_parts_are_refused(world: World, unbroken: Path, tmp_path: Path) -> None:
    _, _, dropping = configs(world, unbroken, workers=1)
    with pytest.raises(ConfigError, match="lie in 4 parts, and parts=8 are asked for; give parts=4"):
        unique_run.run(replace(dropping, parts=8), tmp_path / "unique", False)
    assert not (tmp_path / "unique").exists()


def test_duplicates_of_other_documents_are_refused(world: World, unbroken: Path, tmp_path: Path) -> None:
    """The last part has lost its first document since."""
    with artifacts.stage(tmp_path / "relevant", kind="relevant", config=InParts(parts=NUM_PARTS)):
        texts, *_ = planted()
        for part in range(NUM_PARTS):
            write_part(tmp_path / "relevant", part, range(part, NUM_DOCUMENTS, NUM_PARTS)[part == 3 :], texts)
    _, _, dropping = configs(world, unbroken, workers=1)
    with pytest.raises(CorpusError, match="duplicates were looked for in other documents"):
        unique_run.run(replace(dropping, documents=tmp_path / "relevant"), tmp_path / "unique", False)


def test_without_benchmarks_it_is_said(
    world: World, unbroken: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, _, dropping = configs(world, unbroken, workers=1)
    unique_run.run(replace(dropping, benchmarks=()), tmp_path / "unique", False)
    assert "no benchmarks are given" in capfd.readouterr().err
    counts = artifacts.finished(tmp_path / "unique")["counts"]
    assert counts["benchmarks_questions"] == 0
    assert counts["benchmarks_total"] == counts["kept_documents"]
