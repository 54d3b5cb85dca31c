"""An evaluation from a model directory to scores."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_llama

from megatron_octo.config import dumps
from megatron_octo.errors import ArtifactError, ConfigError
from megatron_octo.evaluation import run as evaluation_run
from megatron_octo.evaluation.config import Evaluation, Source
from megatron_octo.process import main
from megatron_octo.templates import Template


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    documents = [f"Question: {digit}\nAnswer: \\boxed{{{digit}}}" for digit in range(4)]
    return tiny_llama.make(tmp_path_factory.mktemp("model"), documents, steps=150)


def evaluation(model: Path, dataset: Path, **changes: object) -> Evaluation:
    settings: dict = {
        "model": model,
        "benchmarks": (Source(name="test", file=dataset),),
        "template": Template.SIMPLE,
        "max_new_tokens": 16,
        "batch_size": 3,
    }
    return Evaluation(**(settings | changes))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    file = tmp_path / "test.jsonl"
    answers = {"0": "0", "1": "1", "2": "2", "3": "5"}
    rows = [{"question": question, "answer": answer, "level": 1} for question, answer in answers.items()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def read(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "samples/test.jsonl").read_text().splitlines()]


def test_samples_and_scores(model_directory: Path, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "eval"
    evaluation_run.run(evaluation(model_directory, dataset), out, force=False)
    samples = read(out)
    assert [sample["extracted"] for sample in samples] == ["0", "1", "2", "3"]
    assert [sample["correct"] for sample in samples] == [True, True, True, False]
    assert samples[0] == {
        "level": 1, "index": 0, "sample": 0, "question": "0", "answer": "0",
        # sha256 of "Question: 0\nAnswer:"
        "prompt_hash": "1693cf124159b02163f2ad69bb8eec958573558a980274d897839addbb0bc44e",
        "response": " \\boxed{0}", "num_tokens": 11, "finish_reason": "stop", "extracted": "0", "correct": True,
        "grading_timeout": False,
    }  # fmt: skip
    scores = json.loads((out / "scores.json").read_text())["test"]
    assert (scores["accuracy"]["mean"], scores["truncated"], scores["answered"]) == (0.75, 0.0, 1.0)


def test_several_samples_of_a_question_are_one_cluster(model_directory: Path, dataset: Path, tmp_path: Path) -> None:
    settings = evaluation(model_directory, dataset, samples_per_question=3, temperature=0.5)
    evaluation_run.run(settings, tmp_path / "eval", force=False)
    scores = json.loads((tmp_path / "eval" / "scores.json").read_text())["test"]
    assert scores["accuracy"]["n"] == 4
    assert scores["pass_at"].keys() == {"1", "2"}
    assert [(row["index"], row["sample"]) for row in read(tmp_path / "eval")] == [
        (index, sample) for index in range(4) for sample in range(3)
    ]


def test_a_killed_run_continues(model_directory: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "many.jsonl"
    rows = [{"question": str(number % 10), "answer": str(number % 4)} for number in range(300)]
    dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = evaluation(model_directory, dataset, batch_size=2, temperature=1.5, max_new_tokens=40)
    evaluation_run.run(settings, tmp_path / "unbroken", force=False)
    out, file = tmp_path / "eval", tmp_path / "eval/samples/test.jsonl"
    (tmp_path / "config.json").write_text(dumps(settings))
    command = [sys.executable, "-m", "megatron_octo.evaluation.run", str(tmp_path / "config.json"), str(out)]
    running = subprocess.Popen(command, start_new_session=True)
    while not file.exists() or file.read_bytes().count(b"\n") < 20:
        assert running.poll() is None
        time.sleep(0.001)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    kept = file.read_text().splitlines()[:20]
    assert len(file.read_text().splitlines()) < 300
    evaluation_run.run(settings, out, force=False)
    assert read(out) == read(tmp_path / "unbroken")
    assert set(kept) <= set(file.read_text().splitlines())
    assert json.loads((out / "stage.json").read_text())["done"]


def test_a_template_and_stop_strings_of_the_user_s_own(model_directory: Path, dataset: Path, tmp_path: Path) -> None:
    template = tmp_path / "mine.txt"
    template.write_text("Question: {question}\nAns")
    settings = evaluation(
        model_directory, dataset, template=Template.FILE, template_file=template, stop_strings=("ed{",)
    )
    evaluation_run.run(settings, tmp_path / "eval", force=False)
    samples = read(tmp_path / "eval")
    assert [sample["response"] for sample in samples] == ["wer: \\box"] * 4
    # sha256 of "Question: 0\nAns"
    assert samples[0]["prompt_hash"] == "5415f1db46e4dd9cd54d22b4f906d0f550a5ba67e5a28b4093afa8f27d6d4059"
    template.write_text("Question: {question}\nAnswer: ")
    with pytest.raises(ArtifactError, match="template_file"):
        evaluation_run.run(settings, tmp_path / "eval", force=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template": Template.FILE}, "name a file"),
        ({"stop_strings": ("",)}, "empty"),
        ({"samples_per_question": 2}, "greedy"),
    ],
)
def test_evaluations_that_mean_nothing_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluation(Path("m"), Path("d"), **changes)


def test_a_missing_template_is_one_message(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = evaluation(tmp_path, dataset, template=Template.FILE, template_file=tmp_path / "absent.txt")
    (tmp_path / "config.json").write_text(dumps(settings))
    code = main(evaluation_run.run, Evaluation, argv=[str(tmp_path / "config.json"), str(tmp_path / "eval")])
    assert code == 2
    assert "absent.txt" in capsys.readouterr().err


def test_a_missing_model_is_one_message(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "config.json").write_text(dumps(evaluation(tmp_path / "empty", dataset)))
    code = main(evaluation_run.run, Evaluation, argv=[str(tmp_path / "config.json"), str(tmp_path / "eval")])
    assert code == 2
    assert "is no Hugging Face model" in capsys.readouterr().err
