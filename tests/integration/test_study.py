"""The whole study through the command a newcomer types: killed in the middle, run again, finished, and then nothing to do."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_octo import artifacts, recipes
from megatron_octo.launch.study import graph

MODELS = ("stable", "decay_long", "decay_short", "decay_hybrid")
CODE = "import sys; from megatron_octo import cli; sys.argv[0] = 'megatron-octo'; cli.main()"


def start(out: Path, log: Path) -> subprocess.Popen[bytes]:
    """`megatron-octo study tiny.smoke --out OUT`, what it says going to a file."""
    command = [sys.executable, "-c", CODE, "study", "tiny.smoke", "--out", str(out)]
    with log.open("ab") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL)


def finish(out: Path, log: Path) -> float:
    """Seconds until the study ended well."""
    started = time.monotonic()
    process = start(out, log)
    try:
        assert process.wait(timeout=900) == 0, log.read_text()[-5000:]
    finally:
        process.terminate()
        process.wait()
    return time.monotonic() - started


def processes_of(out: Path) -> list[int]:
    """Processes whose command line names the study's directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
        except OSError:  # ended meanwhile
            continue
        if str(out).encode() in words and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def wait_until_gone(out: Path, seconds: float = 15) -> list[int]:
    deadline = time.monotonic() + seconds
    while processes_of(out) and time.monotonic() < deadline:
        time.sleep(0.1)
    return processes_of(out)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study that was killed while the stable model trained."""
    root = tmp_path_factory.mktemp("study")
    out, log = root / "smoke", root / "log"
    first = start(out, log)
    pointer = out / "stable" / "checkpoints" / "latest"
    deadline = time.monotonic() + 300
    while not pointer.exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert pointer.exists(), log.read_text()[-5000:]
    assert wait_until_gone(out) == []
    assert not artifacts.read_mark(out / "stable")["done"]
    finish(out, log)
    return out


@pytest.mark.slow
def test_every_stage_is_done_and_what_was_done_before_the_kill_was_not_done_again(study: Path) -> None:
    jobs = graph.jobs(recipes.load("tiny.smoke"), study, command="")
    assert all(artifacts.finished(job.out)["outputs"] for job in jobs)
    log = (study.parent / "log").read_text()
    for name in ("world", "tokenizer", "shards/web"):
        assert f"{name}: done before" in log
    assert "stable: step 0 of 12" in log
    # Its ranks outlived the launcher for as long as a save takes: they end with a checkpoint of their last step.
    assert re.search(r"stable: step (?!0\b)\d+ of 12", log)


@pytest.mark.slow
def test_the_training_rows_are_those_of_one_run(study: Path) -> None:
    rows = [json.loads(line) for line in (study / "stable" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 13))


@pytest.mark.slow
def test_the_report_shows_the_four_models_and_how_to_repeat_it(study: Path) -> None:
    page = (study / "report" / "report.html").read_text()
    for model in MODELS:
        assert model in page
    assert "megatron-octo study tiny.smoke" in page
    assert 'src="http' not in page
    assert list((study / "report").rglob("*.png"))


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_models_load_in_transformers_before_and_after_rl(study: Path, model: str) -> None:
    before, after = study / "hf" / model, study / "rl" / model / "seed0" / "model"
    for directory in (before, after):
        tokens = AutoTokenizer.from_pretrained(directory)("1 + 2", return_tensors="pt").input_ids
        logits = AutoModelForCausalLM.from_pretrained(directory)(tokens).logits
        assert logits.shape == (1, tokens.shape[1], recipes.load("tiny.smoke").vocab_size)
        assert torch.isfinite(logits).all()


@pytest.mark.slow
def test_a_study_that_is_finished_has_next_to_nothing_to_do(study: Path) -> None:
    marks = {path: path.read_bytes() for path in study.rglob("stage.json") if path.parent.name != "report"}
    assert len(marks) == 10 + 4 + 4 * 4
    log = study.parent / "again"
    seconds = finish(study, log)
    assert {path: path.read_bytes() for path in marks} == marks
    assert log.read_text().count(": done before") == len(marks)
    # The report is drawn again; idle, all of it takes about five seconds.
    assert seconds < 60
    assert wait_until_gone(study) == []
