"""Documents scored by the stand-in, as a stage: killed and continued, with a prompt of one's own, with a model that says nothing of use."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from chat_fault_server import MODEL, ChatFaultServer
from stage_of_pages import stage_of_pages

from megatron_octo import artifacts, config
from megatron_octo.curation.config import Annotation, LanguageModel
from megatron_octo.curation.language_model.budget import BudgetSpent
from megatron_octo.curation.scoring import annotating_run
from megatron_octo.errors import ArtifactError, ConfigError
from megatron_octo.servers import Server


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_sample_is_scored(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    asked = Annotation(documents=stage_of_pages(tmp_path / "documents", 200), sample=60, model=LanguageModel())
    annotating_run.run(asked, tmp_path / "out", False)
    scored = rows(tmp_path / "out" / "annotations.jsonl")
    assert [row["year"] for row in scored].count("2014") == [row["year"] for row in scored].count("2015") == 30
    assert all((row["score"] >= 3) == ("equation" in row["text"]) for row in scored)
    assert all(row["answer"].endswith(f"Final score: {row['score']}") for row in scored)
    assert list(scored[0]) == ["id", "year", "score", "text", "answer"]
    counts = artifacts.finished(tmp_path / "out")["counts"]
    assert (counts["sampled"], counts["annotated"], counts["year_2014"]) == (60, 60, 30)
    assert sum(counts.get(f"score_{score}", 0) for score in range(6)) == 60
    assert "failed" not in counts
    said = capfd.readouterr().err
    assert "60 documents, 60 requests: about" in said
    assert "NO LANGUAGE MODEL IS ASKED" in said


def test_force_pays_no_answer_twice(tmp_path: Path) -> None:
    asked = Annotation(documents=stage_of_pages(tmp_path / "documents", 200), sample=60, model=LanguageModel())
    out = tmp_path / "out"
    annotating_run.run(asked, out, False)
    paid = (out / "logs" / "answers" / "annotations.jsonl").read_bytes()
    annotating_run.run(dataclasses.replace(asked, sample=40), out, True)
    assert len(rows(out / "annotations.jsonl")) == 40
    assert (out / "logs" / "answers" / "annotations.jsonl").read_bytes() == paid


@pytest.mark.slow
def test_a_killed_stage_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    pages = stage_of_pages(tmp_path / "documents", 1000)
    asked = Annotation(documents=pages, sample=600, model=LanguageModel())
    (tmp_path / "config.json").write_text(config.dumps(asked))
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "megatron_octo.curation.scoring.annotating_run", str(tmp_path / "config.json"), str(out),
    ]  # fmt: skip
    cache = out / "logs" / "answers" / "annotations.jsonl"
    for number, answers in ((signal.SIGKILL, 60), (signal.SIGTERM, 300)):
        with subprocess.Popen(command) as child:
            deadline = time.monotonic() + 60
            while not cache.exists() or cache.read_bytes().count(b"\n") < answers:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            child.send_signal(number)
        assert child.returncode == (130 if number == signal.SIGTERM else -number)
        assert not (out / "annotations.jsonl").exists()
    assert subprocess.run(command).returncode == 0
    keys = [row["key"] for row in rows(cache)]
    assert len(keys) == len(set(keys)) == 600
    annotating_run.run(asked, tmp_path / "unbroken", False)
    for name in ("annotations.jsonl", "failed.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()
    assert artifacts.finished(out)["counts"] == artifacts.finished(tmp_path / "unbroken")["counts"]


def test_answers_without_a_score_are_listed(tmp_path: Path) -> None:
    pages = stage_of_pages(tmp_path / "documents", 6, parts=1)
    prompt = tmp_path / "prompt.txt"
    with ChatFaultServer().running() as faulty:  # echoes the prompt
        asked = Annotation(
            documents=pages, sample=6, prompt_file=prompt,
            model=LanguageModel(server=Server(url=faulty.url, model=MODEL), attempts=2),
        )  # fmt: skip
        prompt.write_text("Judge {text}")
        with pytest.raises(ConfigError, match="not one of 6 documents got a score"):
            annotating_run.run(asked, tmp_path / "out", False)
        assert faulty.asked.total() == 12
        prompt.write_text("too long {text}\nFinal score: 1")
        with pytest.raises(ConfigError, match="not one of 6"):
            annotating_run.run(asked, tmp_path / "other", False)
    assert faulty.asked.total() == 18  # a refusal is no reason to ask again
    failed = rows(tmp_path / "out" / "failed.jsonl")
    assert [row["id"] for row in failed] == [f"page {number}" for number in range(6)]
    assert {row["reason"] for row in failed} == {"unreadable"}
    assert {row["reason"] for row in rows(tmp_path / "other" / "failed.jsonl")} == {"refused"}


def test_a_prompt_that_makes_it_answer(tmp_path: Path) -> None:
    pages = stage_of_pages(tmp_path / "documents", 6, parts=1)
    (tmp_path / "prompt.txt").write_text("Judge {text}\nFinal score: 1")
    with ChatFaultServer().running() as faulty:
        server = Server(url=faulty.url, model=MODEL)
        asked = Annotation(
            documents=pages, prompt_file=tmp_path / "prompt.txt", max_characters=20, model=LanguageModel(server=server)
        )
        annotating_run.run(asked, tmp_path / "out", False)
    scored = rows(tmp_path / "out" / "annotations.jsonl")
    assert {row["score"] for row in scored} == {1}
    assert {len(row["text"]) for row in scored} == {20}
    assert artifacts.finished(tmp_path / "out")["counts"]["year_2015_score_1"] == 2


def test_a_larger_sample_pays_for_what_is_new(tmp_path: Path) -> None:
    small = Annotation(documents=stage_of_pages(tmp_path / "documents", 200), sample=40, model=LanguageModel())
    out = tmp_path / "out"
    annotating_run.run(small, out, False)
    few = rows(out / "annotations.jsonl")
    annotating_run.run(dataclasses.replace(small, sample=60), out, False)
    many = rows(out / "annotations.jsonl")
    assert len(many) == len(rows(out / "logs" / "answers" / "annotations.jsonl")) == 60
    assert {row["id"] for row in few} < {row["id"] for row in many}
    with pytest.raises(ArtifactError, match="sample: 60 -> 50"):
        annotating_run.run(dataclasses.replace(small, sample=50), out, False)


def test_a_budget_stops_it_and_a_higher_one_goes_on(tmp_path: Path) -> None:
    pages = stage_of_pages(tmp_path / "documents", 40)
    asked = Annotation(documents=pages, model=LanguageModel())
    limited = dataclasses.replace(asked, model=LanguageModel(max_tokens=10_000))
    with pytest.raises(BudgetSpent, match=r"max_tokens=10,000 .* of 40 documents are scored"):
        annotating_run.run(limited, tmp_path / "out", False)
    answered = rows(tmp_path / "out" / "logs" / "answers" / "annotations.jsonl")
    assert 5_000 < sum(row["prompt_tokens"] + row["answer_tokens"] for row in answered) <= 10_000
    annotating_run.run(asked, tmp_path / "out", False)
    annotating_run.run(asked, tmp_path / "unbroken", False)
    first, second = (tmp_path / name / "annotations.jsonl" for name in ("out", "unbroken"))
    assert first.read_bytes() == second.read_bytes()
    assert len(rows(tmp_path / "out" / "logs" / "answers" / "annotations.jsonl")) == 40
