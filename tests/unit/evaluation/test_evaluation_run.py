"""A run with a scripted model: what it leaves, where it continues, what it refuses, what it says."""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pytest

from megatron_octo.errors import ArtifactError, ResourceError
from megatron_octo.evaluation import engines, run
from megatron_octo.evaluation.completions import Completion, Sampling
from megatron_octo.evaluation.config import Evaluation, Source
from megatron_octo.templates import Template

NUM_QUESTIONS = 7


class Scripted:
    """Answers `a+b` right, question 5 at the cap and question 6 wrong; two prompts at a time, the last first."""

    def __init__(self, dies_after: int | None = None) -> None:
        self.asked: list[int] = []
        self.samplings: list[Sampling] = []
        self._dies_after = dies_after

    def complete(
        self, prompts: Sequence[str], sampling: Sampling, *, done: Collection[int]
    ) -> Iterator[list[tuple[int, Completion]]]:
        self.samplings.append(sampling)
        places = [place for place in reversed(range(len(prompts))) if place not in done]
        for start in range(0, len(places), 2):
            if start == self._dies_after:
                raise ResourceError("the power is gone")
            self.asked += places[start : start + 2]
            yield [(place, self._answer(prompts[place])) for place in places[start : start + 2]]

    def _answer(self, prompt: str) -> Completion:
        left, right = map(int, prompt.split()[1].split("+"))
        total = left + right + (left == 6)
        return Completion(text=f" \\boxed{{{total}}}", num_tokens=10 + left, finished=left != 5)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    file = tmp_path / "sums.jsonl"
    rows = [{"question": f"{left}+1", "answer": str(left + 1), "level": left} for left in range(NUM_QUESTIONS)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def evaluation(questions: Path, model: Path, **changes: object) -> Evaluation:
    model.mkdir(exist_ok=True)
    settings: dict = {
        "model": model, "benchmarks": (Source(name="sums", file=questions),), "template": Template.SIMPLE,
        "max_new_tokens": 16,
    }  # fmt: skip
    return Evaluation(**(settings | changes))


def evaluate(config: Evaluation, out: Path, model: Scripted, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Rows of `sums`."""
    monkeypatch.setattr(engines, "completer", lambda config: model)
    run.run(config, out, force=False)
    return read(out / "samples/sums.jsonl")


def read(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_rows_scores_and_prompt(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Scripted()
    rows = evaluate(evaluation(questions, tmp_path / "m"), tmp_path / "out", model, monkeypatch)
    assert [(row["index"], row["sample"]) for row in rows] == [(index, 0) for index in range(7)]
    assert rows[5] == {
        "level": 5, "index": 5, "sample": 0, "question": "5+1", "answer": "6",
        # sha256 of "Question: 5+1\nAnswer:"
        "prompt_hash": "da272705974f144ea4eae9876e2c03bc68c8ae17870a25a8b28d245f3c6bb59d",
        "response": " \\boxed{6}", "num_tokens": 15, "finish_reason": "length", "extracted": "6", "correct": True,
        "grading_timeout": False,
    }  # fmt: skip
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    assert scores.keys() == {"sums"}
    assert (scores["sums"]["title"], scores["sums"]["num_shots"], scores["sums"]["num_samples"]) == ("sums", 0, 1)
    assert scores["sums"]["accuracy"]["mean"] == pytest.approx(6 / 7)
    assert scores["sums"]["truncated"] == pytest.approx(1 / 7)
    assert (tmp_path / "out/prompts/sums.txt").read_text() == "Question: 0+1\nAnswer:"
    assert model.samplings == [
        Sampling(
            max_new_tokens=16, temperature=0.0, top_p=1.0, seed=1234,
            stop_strings=("User:", "Assistant:", "Question:", "Answer:"),
        )
    ]  # fmt: skip
    said = capsys.readouterr().out
    assert said.startswith("sums: 85.7 % right (")
    assert "ONLY 7 questions" in said


def test_a_broken_run_continues_and_ends_as_an_unbroken_one(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = evaluation(questions, tmp_path / "m", samples_per_question=2, temperature=1.0)
    unbroken = evaluate(config, tmp_path / "whole", Scripted(), monkeypatch)
    first, second = Scripted(dies_after=6), Scripted()
    with pytest.raises(ResourceError, match="power"):
        evaluate(config, tmp_path / "out", first, monkeypatch)
    assert first.asked == [13, 12, 11, 10, 9, 8]
    assert len(read(tmp_path / "out/samples/sums.jsonl")) == 6
    assert evaluate(config, tmp_path / "out", second, monkeypatch) == unbroken
    assert second.asked == [7, 6, 5, 4, 3, 2, 1, 0]
    scores = [(tmp_path / name / "scores.json").read_text() for name in ("whole", "out")]
    assert scores[0] == scores[1]


def test_a_row_that_a_kill_has_cut_is_done_again(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = evaluation(questions, tmp_path / "m"), tmp_path / "out"
    unbroken = evaluate(config, tmp_path / "whole", Scripted(), monkeypatch)
    with pytest.raises(ResourceError):
        evaluate(config, out, Scripted(dies_after=4), monkeypatch)
    file = out / "samples/sums.jsonl"
    file.write_bytes(file.read_bytes()[:-20])  # within the fourth row, which is question 3
    model = Scripted()
    assert evaluate(config, out, model, monkeypatch) == unbroken
    assert model.asked == [3, 2, 1, 0]


def test_a_finished_run_asks_nothing(questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, again = evaluation(questions, tmp_path / "m"), Scripted()
    evaluate(config, tmp_path / "out", Scripted(), monkeypatch)
    evaluate(config, tmp_path / "out", again, monkeypatch)
    assert again.samplings == []


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("prompt_hash", "0" * 64, r"question 6 had another prompt \(sha256 000000000000, now .*--force"),
        ("answer", "12", "question 6 had the answer '12', now '7'"),
        ("index", 7, "there were more than the 7 questions of now"),
    ],
)
def test_rows_of_other_prompts_are_refused(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: object, message: str
) -> None:
    config, out = evaluation(questions, tmp_path / "m"), tmp_path / "out"
    with pytest.raises(ResourceError):
        evaluate(config, out, Scripted(dies_after=2), monkeypatch)
    file = out / "samples/sums.jsonl"
    rows = read(file)
    rows[0][key] = value
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ArtifactError, match=message):
        evaluate(config, out, Scripted(), monkeypatch)
    assert read(file) == rows


def test_a_run_that_answered_nothing_keeps_no_other_config_out(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ResourceError):
        evaluate(evaluation(questions, tmp_path / "m"), out, Scripted(dies_after=0), monkeypatch)
    assert not out.exists()
    assert len(evaluate(evaluation(questions, tmp_path / "m", limit=3), out, Scripted(), monkeypatch)) == 3


def test_few_shot_answers_need_no_box_unless_asked(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Prose(Scripted):
        def _answer(self, prompt: str) -> Completion:
            return Completion(text=" The answer is 1.", num_tokens=5, finished=True)

    given = {"template": None, "num_shots": 0, "limit": 1}
    few_shot = evaluation(questions, tmp_path / "m", **given)
    strict = evaluation(questions, tmp_path / "m", **given, lenient=False)
    verdicts = [
        [(row["extracted"], row["correct"]) for row in evaluate(config, tmp_path / name, Prose(), monkeypatch)]
        for name, config in (("few_shot", few_shot), ("strict", strict))
    ]
    assert verdicts == [[("1", True)], [(None, False)]]


def test_a_limit_takes_the_beginning_of_the_same_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No example may be a question that only a whole evaluation asks."""
    rows = [{"question": f"{left}+1", "solution": "so", "answer": str(left + 1)} for left in range(4)]
    asked, shown = tmp_path / "sums.jsonl", tmp_path / "shown.jsonl"
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    shown.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    source = Source(name="sums", file=asked, shots_file=shown)
    for limit in (None, 1):
        config = evaluation(asked, tmp_path / "model", benchmarks=(source,), template=None, num_shots=1, limit=limit)
        rows = evaluate(config, tmp_path / f"out{limit}", Scripted(), monkeypatch)
        assert (
            rows[0]["prompt_hash"]
            == hashlib.sha256(b"Question: 3+1\nAnswer: so The answer is 4.\n\nQuestion: 0+1\nAnswer:").hexdigest()
        )
    assert len(rows) == 1


def test_a_model_of_the_hub_has_to_be_here(questions: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(evaluation(questions, tmp_path / "model"), model=Path("meta-llama/Llama-3.2-1B"))
    with pytest.raises(ArtifactError, match=r"is no directory; .*hf download meta-llama/Llama-3.2-1B --local-dir DIR"):
        run.run(config, tmp_path / "out", force=False)
    assert not (tmp_path / "out").exists()


def test_files_of_any_name_are_inputs_of_their_own(tmp_path: Path) -> None:
    """A benchmark named `model` takes no model's place."""
    source = Source(name="model", file=tmp_path / "model.jsonl", shots_file=tmp_path / "shown.jsonl")
    assert evaluation(tmp_path, tmp_path / "m", benchmarks=(source,)).inputs == {
        "model": tmp_path / "m", "benchmark_model": tmp_path / "model.jsonl", "shots_model": tmp_path / "shown.jsonl"
    }  # fmt: skip


def test_options_of_a_multiple_choice_reach_the_grader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lettered(Scripted):
        def _answer(self, prompt: str) -> Completion:
            return Completion(text=" \\boxed{12}", num_tokens=5, finished=True)

    file = tmp_path / "letters.jsonl"
    file.write_text(json.dumps({"question": "3 * 4?", "answer": "B", "choices": ["7", "12", "34"]}) + "\n")
    (row,) = evaluate(evaluation(file, tmp_path / "m"), tmp_path / "out", Lettered(), monkeypatch)
    assert (row["answer"], row["correct"]) == ("B", True)


@pytest.mark.parametrize(
    ("num_questions", "low", "high", "line"),
    [
        (1319, 0.398, 0.451, "GSM8K: 42.4 % right (39.8 to 45.1) of 1,319 questions; 2.0 % truncated"),
        (
            40,
            0.29,
            0.59,
            "GSM8K: 42.4 % right (29.0 to 59.0) of 40 questions; 2.0 % truncated\n"
            "  *** ONLY 40 questions: the interval is ±15 points ***",
        ),
    ],
)
def test_a_result_is_one_line_and_loud_where_it_is_noise(
    num_questions: int, low: float, high: float, line: str
) -> None:
    accuracy = {"mean": 0.424, "low": low, "high": high, "n": num_questions}
    assert run.result("GSM8K", {"accuracy": accuracy, "truncated": 0.02}) == line
