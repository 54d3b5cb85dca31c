"""An evaluation from a model directory to scores."""

import json
from pathlib import Path

import pytest
import tiny_llama

from megatron_octo.config import dumps
from megatron_octo.evaluation import run as evaluation_run
from megatron_octo.evaluation.config import Evaluation
from megatron_octo.process import main
from megatron_octo.templates import Template


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    documents = [f"Question: {digit}\nAnswer: \\boxed{{{digit}}}" for digit in range(4)]
    return tiny_llama.make(tmp_path_factory.mktemp("model"), documents, steps=150)


def evaluation(model: Path, dataset: Path, **changes: object) -> Evaluation:
    settings: dict = {
        "model": model,
        "dataset": dataset,
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


def test_samples_and_scores(model_directory: Path, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "eval"
    evaluation_run.run(evaluation(model_directory, dataset), out, force=False)
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert [sample["extracted"] for sample in samples] == ["0", "1", "2", "3"]
    assert [sample["correct"] for sample in samples] == [True, True, True, False]
    assert samples[0] == {
        "level": 1, "question": "0", "answer": "0",
        # sha256 of "Question: 0\nAnswer:"
        "prompt_hash": "1693cf124159b02163f2ad69bb8eec958573558a980274d897839addbb0bc44e",
        "response": " \\boxed{0}", "num_tokens": 11, "finish_reason": "stop", "extracted": "0", "correct": True,
        "grading_timeout": False,
    }  # fmt: skip
    scores = json.loads((out / "scores.json").read_text())
    assert (scores["accuracy"]["mean"], scores["truncated"], scores["boxed"]) == (0.75, 0.0, 1.0)


def test_several_samples_of_a_question_are_one_cluster(model_directory: Path, dataset: Path, tmp_path: Path) -> None:
    settings = evaluation(model_directory, dataset, samples_per_question=3, temperature=0.5)
    evaluation_run.run(settings, tmp_path / "eval", force=False)
    scores = json.loads((tmp_path / "eval" / "scores.json").read_text())
    assert scores["accuracy"]["n"] == 4
    assert len((tmp_path / "eval" / "samples.jsonl").read_text().splitlines()) == 12


def test_a_missing_model_is_one_message(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "config.json").write_text(dumps(evaluation(tmp_path / "empty", dataset)))
    code = main(evaluation_run.run, Evaluation, argv=[str(tmp_path / "config.json"), str(tmp_path / "eval")])
    assert code == 2
    assert "is no Hugging Face model" in capsys.readouterr().err
