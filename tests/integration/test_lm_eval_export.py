"""Exported tasks, run by lm-evaluation-harness itself: the same texts and the same accuracy as ours."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from megatron_octo.errors import ArtifactError, ConfigError
from megatron_octo.evaluation import export
from megatron_octo.evaluation import run as evaluation_run
from megatron_octo.evaluation.config import Evaluation, Source
from megatron_octo.templates import Template

MAX_NEW_TOKENS = 40
SUMS = [(a, b) for a in range(5) for b in range(5)]


def solved(a: int, b: int) -> str:
    return f"Question: {a}+{b}\nAnswer: The answer is \\boxed{{{a + b}}}.\n\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Has seen the sums, in the form of a prompt with one example, and knows some of them."""
    documents = [solved(b, a) + solved(a, b) for a, b in SUMS]
    return tiny_llama.make(tmp_path_factory.mktemp("model"), documents, steps=150)


@pytest.fixture(scope="module")
def model_with_bos(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights, and a tokenizer that begins every text with BOS."""
    directory = tmp_path_factory.mktemp("bos")
    for file in model.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single=f"{tiny_llama.BOS} $A", special_tokens=[(tiny_llama.BOS, 1)]
    )
    tokenizer.save_pretrained(directory)
    assert AutoTokenizer.from_pretrained(directory)("a")["input_ids"][0] == 1
    return directory


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    directory = tmp_path_factory.mktemp("questions")
    asked, shown = directory / "sums.jsonl", directory / "shown.jsonl"
    questions = [*((f"{a}+{b}", str(a + b)) for a, b in SUMS[:20]), ("{{a}} {# nothing #}", "1")]
    asked.write_text("".join(json.dumps({"question": text, "answer": answer}) + "\n" for text, answer in questions))
    shown.write_text(json.dumps({"question": "4+4", "answer": r"\boxed{8}"}) + "\n")
    return Source(name="sums", file=asked, shots_file=shown)


def evaluation(model: Path, source: Source, **changes: Any) -> Evaluation:
    settings: dict = {
        "model": model, "benchmarks": (source,), "template": Template.SIMPLE, "max_new_tokens": MAX_NEW_TOKENS, "batch_size": 7,
    }  # fmt: skip
    return Evaluation(**(settings | changes))


def run_lm_eval(tasks: Path, model: Path) -> tuple[float, list[dict]]:
    """Accuracy, and the samples in the order of the questions."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model), "dtype": "float32"},
        tasks=["octo"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        device="cpu",
        batch_size=5,
        bootstrap_iters=0,
    )
    assert found is not None
    samples = sorted(found["samples"]["octo_sums"], key=lambda sample: sample["doc_id"])
    return found["results"]["octo_sums"]["accuracy,none"], samples


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tokenizer", "changes"), [("model", {}), ("model_with_bos", {"template": None, "num_shots": 1})]
)
def test_lm_eval_gives_our_score(
    tokenizer: str, changes: dict, source: Source, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(tokenizer)
    config = evaluation(model, source, **changes)
    evaluation_run.run(config, tmp_path / "ours", False)
    export.run(config, tmp_path / "tasks", False)
    accuracy, theirs = run_lm_eval(tmp_path / "tasks", model)
    rows = [json.loads(line) for line in (tmp_path / "ours" / "samples" / "sums.jsonl").read_text().splitlines()]
    assert [sample["resps"][0][0] for sample in theirs] == [row["response"] for row in rows]
    assert [sample["accuracy"] for sample in theirs] == [row["correct"] for row in rows]
    assert accuracy == json.loads((tmp_path / "ours" / "scores.json").read_text())["sums"]["accuracy"]["mean"]
    # Right and wrong ones, and more than a few texts: two runs that said nothing would agree as well.
    assert 0 < accuracy < 1
    assert len({row["response"] for row in rows}) > 3


def test_the_files(source: Source, tmp_path: Path) -> None:
    choice = tmp_path / "choice.jsonl"
    choice.write_text('{"question": "Which?", "answer": "B", "choices": ["1", "2"]}\n')
    config = evaluation(
        tmp_path, source, benchmarks=(source, Source(name="choice", file=choice)), limit=1, stop_strings=("\n\n",)
    )
    export.run(config, tmp_path / "tasks", False)
    assert {file.name for file in (tmp_path / "tasks").iterdir()} == {
        "octo.yaml", "octo_sums.yaml", "octo_choice.yaml", "sums.jsonl", "choice.jsonl", "utils.py", "stage.json",
    }  # fmt: skip
    assert json.loads((tmp_path / "tasks" / "choice.jsonl").read_text()) == {
        "prompt": "Question: Which?\n(A) 1\n(B) 2\nAnswer:", "question": "Which?", "answer": "B", "choices": ["1", "2"],
    }  # fmt: skip
    assert "LENIENT = False" in (tmp_path / "tasks" / "utils.py").read_text()


def test_what_cannot_be_exported_is_refused(source: Source, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exported tasks are greedy"):
        export.run(evaluation(tmp_path, source, temperature=0.6), tmp_path / "tasks", False)
    assert not (tmp_path / "tasks").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").touch()
    with pytest.raises(ArtifactError, match="is not empty"):
        export.run(evaluation(tmp_path, source), tmp_path / "mine", False)
