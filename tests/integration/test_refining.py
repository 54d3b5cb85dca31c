"""The refining stage with a real server: what it keeps and drops, and what kills, workers and budgets do not change."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from rewriting_server import GERMAN, MODEL, REFUSAL, RewritingServer

from megatron_octo import artifacts
from megatron_octo.config import dumps
from megatron_octo.curation import documents
from megatron_octo.curation.config import InParts, LanguageModel, Refinement
from megatron_octo.curation.refinement import refining_run
from megatron_octo.curation.refinement.refining import NAME
from megatron_octo.errors import ConfigError, ResourceError

PARTS = 3
DOCUMENTS_PER_PART = 12
PARAGRAPH = (
    "The area of circle {n} with radius {n} is $\\pi \\cdot {n}^2$, as Archimedes of Syracuse knew well before us."
)
ORDERS = ("refuse", "refuse once", "cut", "cut once", "echo", "swell", "shrink", "german", "copy", "overlong")


def text_of(number: int, order: str = "") -> str:
    """Every third document is long enough for several chunks."""
    paragraphs = [PARAGRAPH.format(n=100 * number + place) for place in range(1 if number % 3 else 9)]
    return "\n\n".join(["Menu | Home | Log in", *([f"!{order}"] if order else []), *paragraphs])


def good_text(number: int) -> str:
    return text_of(number).removeprefix("Menu | Home | Log in\n\n")


def write_stage(out: Path, parts: list[list[tuple[str, str]]]) -> Path:
    """A finished stage of documents, as (id, text) by part."""
    with artifacts.stage(out, kind="unique", config=InParts(parts=len(parts))) as stage:
        for part, rows in enumerate(parts):
            lines = [documents.line_of(name, text, {"url": f"https://{name}", "year": "2019"}) for name, text in rows]
            file = documents.file_of(out, part)
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(zstandard.compress(b"".join(lines)))
        stage.counts["kept_documents"] = sum(len(rows) for rows in parts)
        stage.counts["kept_characters"] = sum(len(text) for rows in parts for _, text in rows)
    return out


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents that come back well, but for one refusal in each part."""
    parts = [
        [(f"{part}/{row}", text_of(100 * part + row, "refuse" if row == 5 else "")) for row in range(DOCUMENTS_PER_PART)]
        for part in range(PARTS)
    ]  # fmt: skip
    return write_stage(tmp_path_factory.mktemp("plain") / "unique", parts)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One document for every order, one without, and one of white space."""
    rows = [(order or "good", text_of(1 + 3 * row, order)) for row, order in enumerate(("", *ORDERS))]
    return write_stage(tmp_path_factory.mktemp("odd") / "unique", [[*rows, ("blank", " \n\n ")]])


@pytest.fixture
def server() -> Iterator[RewritingServer]:
    with RewritingServer().running() as server:
        yield server


def config(source: Path, server: RewritingServer, **changes: Any) -> Refinement:
    model = LanguageModel(server=server.server, attempts=2)
    parts = artifacts.finished(source)["config"]["parts"]
    return dataclasses.replace(Refinement(documents=source, model=model, parts=parts, max_characters=400), **changes)


def rows(out: Path, part: int = 0) -> dict[str, dict[str, Any]]:
    return {each.id: {"text": each.text, **each.metadata} for each in documents.read(out, part)}


def rejects(out: Path) -> dict[str, dict[str, Any]]:
    lines = zstandard.ZstdDecompressor().stream_reader((out / f"rejects/{NAME}/00000.jsonl.zst").read_bytes()).read()
    return {row["id"]: row for row in map(json.loads, lines.splitlines())}


def test_good_answers_are_kept_and_others_dropped_with_reasons(
    tmp_path: Path, odd: Path, server: RewritingServer
) -> None:
    out = tmp_path / "refined"
    refining_run.run(config(odd, server), out, False)
    kept = rows(out)
    assert list(kept) == ["good", "refuse once", "cut once", "copy"]
    assert kept["good"] == {
        "text": good_text(1),
        "url": "https://good",
        "year": "2019",
        "refined": True,
        "refiner": MODEL,
        "original_characters": len(text_of(1)),
        "refined_chunks": 1,
    }
    assert kept["copy"]["text"] == text_of(28, "copy")
    dropped = {name: row["metadata"]["filter_reason"] for name, row in rejects(out).items()}
    assert dropped == {
        "refuse": "refusal",
        "cut": "cut",
        "echo": "echo",
        "swell": "too_long",
        "shrink": "too_short",
        "german": "language",
        "overlong": "refused_by_server",
        "blank": "empty",
    }
    assert rejects(out)["refuse"]["text"] == text_of(4, "refuse")
    assert rejects(out)["refuse"]["metadata"]["answers"] == [REFUSAL]
    assert rejects(out)["german"]["metadata"]["answers"] == [GERMAN]
    counts = artifacts.finished(out)["counts"]
    assert counts["refined_total"] == 12
    assert counts["refined_forwarded"] == counts["kept_documents"] == 4
    assert counts["refined_dropped"] == 8
    assert counts["refined_dropped_language"] == 1
    assert counts["refined_copied"] == 1
    # One each for `good` and `copy`, two for all others, none for what the server refuses and for white space.
    assert counts["refined_answers"] == 2 + 2 * 8
    assert counts["refined_numbers"] == counts["refined_numbers_kept"] > 4


def test_failed_documents_can_stay_as_they_were(tmp_path: Path, odd: Path, server: RewritingServer) -> None:
    out = tmp_path / "refined"
    refining_run.run(config(odd, server, keep_failed=True), out, False)
    kept = rows(out)
    assert list(kept) == list(rows(odd))
    assert kept["german"] == {
        **rows(odd)["german"], "refined": False, "refinement_fault": "language",
    }  # fmt: skip
    assert not (out / f"rejects/{NAME}/00000.jsonl.zst").exists()
    assert artifacts.finished(out)["counts"]["refined_unrefined"] == 8


def test_long_documents_come_back_whole(tmp_path: Path, plain: Path, server: RewritingServer) -> None:
    refining_run.run(config(plain, server), tmp_path / "refined", False)
    long = rows(tmp_path / "refined", 1)["1/2"]
    assert long["refined_chunks"] == 3
    assert long["text"] == good_text(102)


def start(config: Refinement, out: Path) -> "subprocess.Popen[bytes]":
    file = out.with_name(f"{out.name}.json")
    file.write_text(dumps(config))
    command = [sys.executable, "-m", "megatron_octo.curation.refinement.refining_run", str(file), str(out)]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def answered(out: Path) -> list[str]:
    """Keys of all answers on disk; a line that was cut is none."""
    lines = [line for file in (out / "logs/answers").glob("*.jsonl") for line in file.read_bytes().split(b"\n")[:-1]]
    return [json.loads(line)["key"] for line in lines]


@pytest.mark.slow
def test_killed_three_times_with_two_workers_it_gives_the_same_and_pays_once(
    tmp_path: Path, plain: Path, server: RewritingServer
) -> None:
    refining_run.run(config(plain, server), tmp_path / "unbroken", False)
    num_answers = server.given.total()
    out = tmp_path / "killed"
    for number in range(3):
        server.given.clear()
        server.asked.clear()
        before = set(answered(out))
        server.allow(num_answers // 5)
        child = start(config(plain, server, workers=2), out)
        server.wait_for_all_allowed()
        time.sleep(0.2 * number)
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate(timeout=60)
        assert not before & set(server.asked)
        assert len(before) < len(answered(out)) < num_answers
    server.asked.clear()
    server.allow(None)
    before = set(answered(out))
    child = start(config(plain, server, workers=2), out)
    _, said = child.communicate(timeout=120)
    assert child.returncode == 0, said.decode()
    assert not before & set(server.asked)
    assert len(answered(out)) == len(set(answered(out))) == num_answers
    assert artifacts.finished(out)["outputs"] == artifacts.finished(tmp_path / "unbroken")["outputs"]
    assert artifacts.finished(out)["counts"] == artifacts.finished(tmp_path / "unbroken")["counts"]


def test_a_budget_stops_it_and_a_higher_one_goes_on(
    tmp_path: Path, plain: Path, server: RewritingServer, capfd: pytest.CaptureFixture[str]
) -> None:
    refining_run.run(config(plain, server), tmp_path / "unbroken", False)
    counts = artifacts.finished(tmp_path / "unbroken")["counts"]
    tokens = counts["refined_prompt_tokens"] + counts["refined_answer_tokens"]
    server.given.clear()
    model = LanguageModel(server=server.server, attempts=2, max_tokens=tokens // 2)
    limited = config(plain, server, model=model, max_new_tokens=500)
    with pytest.raises(ResourceError, match="does not allow another request"):
        refining_run.run(limited, tmp_path / "limited", False)
    assert server.given.total() > 0
    assert "are there already" not in capfd.readouterr().err
    unlimited = dataclasses.replace(limited, model=dataclasses.replace(model, max_tokens=10 * tokens))
    refining_run.run(unlimited, tmp_path / "limited", False)
    assert set(server.given.values()) == {1}
    assert "of answers are there already" in capfd.readouterr().err
    assert artifacts.finished(tmp_path / "limited")["outputs"] == artifacts.finished(tmp_path / "unbroken")["outputs"]


def test_the_stand_in_rewrites(tmp_path: Path, plain: Path, capfd: pytest.CaptureFixture[str]) -> None:
    refining_run.run(Refinement(documents=plain, model=LanguageModel(), parts=PARTS), tmp_path / "refined", False)
    assert rows(tmp_path / "refined", 1)["1/2"]["text"] == good_text(102)
    said = capfd.readouterr().err
    assert "NO LANGUAGE MODEL IS ASKED" in said
    assert f"refine: {PARTS * DOCUMENTS_PER_PART} documents, {PARTS * DOCUMENTS_PER_PART} requests: about " in said


def test_a_prompt_of_ones_own_is_an_input(tmp_path: Path, plain: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Tidy it.")
    asked = Refinement(documents=plain, model=LanguageModel(), parts=PARTS, prompt_file=prompt)
    with pytest.raises(ConfigError, match=r"has \{text\} in it 0 times"):
        refining_run.run(asked, tmp_path / "refined", False)
    prompt.write_text("Tidy it.\n<text>\n{text}\n</text>")
    refining_run.run(asked, tmp_path / "refined", False)
    assert set(artifacts.finished(tmp_path / "refined")["inputs"]) == {"documents", "prompt"}


def test_parts_are_those_of_the_documents(tmp_path: Path, plain: Path) -> None:
    with pytest.raises(ConfigError, match="lie in 3 parts, and parts=64"):
        refining_run.run(Refinement(documents=plain, model=LanguageModel()), tmp_path / "refined", False)
