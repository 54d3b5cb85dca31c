"""Questions and examples from files, and what is said where there are none."""

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from megatron_octo.errors import ConfigError, CorpusError
from megatron_octo.evaluation import loading, sources
from megatron_octo.evaluation.benchmarks import BENCHMARKS, Hub
from megatron_octo.evaluation.config import ShotSource, Source


def write(file: Path, *rows: object) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_jsonl(tmp_path: Path) -> None:
    file = write(
        tmp_path / "own.jsonl", {"question": "a\u2028b", "answer": "1", "id": 7}, {"question": "c", "answer": "2"}
    )
    first, second = loading.questions(Source(name="mine", file=file))
    assert (first.question, first.answer, first.extra) == ("a\u2028b", "1", {"id": 7})
    assert second.extra == {}


def test_parquet(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(
        pa.Table.from_pylist([{"question": "Q", "options": ["x", "y"], "answer": 1}]), tmp_path / "t.parquet"
    )
    with pytest.warns(UserWarning, match="mmlu_stem has 1 questions in .*t.parquet, 3,018 in published results"):
        (question,) = loading.questions(Source(name="mmlu_stem", file=tmp_path / "t.parquet"))
    assert (question.answer, question.choices) == ("B", ("x", "y"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no questions"),
        ('{"question": "q"}\n', "f.jsonl:1 has no text or number in 'answer'"),
        ('\n{"question": 1, "answer"\n', "f.jsonl:2 is not JSON"),
        ("[1]\n", "f.jsonl:1 is a list; every line must be an object"),
    ],
)
def test_bad_files(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text(text)
    with pytest.raises(CorpusError, match=message):
        loading.questions(Source(name="mine", file=tmp_path / "f.jsonl"))


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "f.parquet").write_text("no")
    for name, message in (
        ("f.csv", "neither .jsonl nor .parquet"),
        ("g.jsonl", "cannot read"),
        ("f.parquet", "as Parquet"),
    ):
        with pytest.raises(CorpusError, match=message):
            loading.questions(Source(name="mine", file=tmp_path / name))


def test_an_unknown_name_without_a_file() -> None:
    with pytest.raises(ConfigError, match="'mine' is no benchmark"):
        loading.questions(Source(name="mine"))


def test_without_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(CorpusError, match=r"the questions of svamp .*ChilleD/SVAMP.*DIR/svamp\.jsonl .*--data DIR$"):
        loading.questions(Source(name="svamp"))
    with pytest.raises(CorpusError, match=r"examples for svamp .*DIR/gsm8k\.train\.jsonl.*--shots-file.*--num-shots 0"):
        loading.shots(Source(name="svamp"), ShotSource.TRAIN)


def test_examples_are_in_the_columns_of_whose_they_are(tmp_path: Path) -> None:
    file = write(
        tmp_path / "s.jsonl",
        {"question": "q", "answer": "steps\n#### 5"},
        {"question": "r", "solution": "s", "answer": "6"},
    )
    examples = loading.shots(Source(name="svamp", shots_file=file), ShotSource.TRAIN)
    assert [(each.question, each.solution, each.answer) for each in examples] == [("q", "steps", "5"), ("r", "s", "6")]


def test_no_examples_at_all() -> None:
    with pytest.raises(ConfigError, match=r"amc23 has no training split.*--shots-file, or take --num-shots 0"):
        loading.shots(Source(name="amc23"), ShotSource.TRAIN)
    with pytest.raises(
        ConfigError, match=r"no published examples for gpqa_diamond, only for gsm8k, math, .*--shots-file"
    ):
        loading.shots(Source(name="gpqa_diamond"), ShotSource.LM_EVAL)


@pytest.mark.parametrize(
    ("name", "number", "answers"),
    [
        ("svamp", 8, ["6", "5", "39", "8", "9", "29", "33", "8"]),
        ("ocw", 4, ["[2,5)", "24", "16", r"-\frac{2}{3}"]),
        ("sat", 5, ["B", "A", "B", "B", "B"]),
    ],
)
def test_examples_published_with_lm_eval(name: str, number: int, answers: list[str]) -> None:
    pytest.importorskip("lm_eval")
    examples = loading.shots(Source(name=name), ShotSource.LM_EVAL)
    assert [each.answer for each in examples] == answers
    assert len(examples) == number
    assert all(each.solution and "answer is" not in each.solution for each in examples)


def test_files_in_a_directory(tmp_path: Path) -> None:
    for name in ("svamp.jsonl", "gsm8k.parquet", "gsm8k.train.jsonl"):
        (tmp_path / name).touch()
    shots_file = tmp_path / "gsm8k.train.jsonl"
    assert sources.local(["svamp", "gsm8k"], tmp_path) == [
        Source(name="svamp", file=tmp_path / "svamp.jsonl", shots_file=shots_file),
        Source(name="gsm8k", file=tmp_path / "gsm8k.parquet", shots_file=shots_file),
    ]
    (tmp_path / "svamp.train.parquet").touch()
    (svamp,) = sources.local(["svamp"], tmp_path)
    assert svamp.shots_file == tmp_path / "svamp.train.parquet"
    with pytest.raises(
        CorpusError, match=r"no files of mawps, math, such as mawps.jsonl or mawps.parquet; .*: --suite svamp$"
    ):
        sources.local(["mawps", "svamp", "math"], tmp_path)
    with pytest.raises(CorpusError, match="nowhere is no directory"):
        sources.local(["svamp"], tmp_path / "nowhere")


def test_rows_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write(
        tmp_path / "hub/test.jsonl",
        {"problem": "P", "solution": r"\boxed{5}"},
        {"problem": "R", "solution": r"\boxed{6}"},
    )
    math = dataclasses.replace(BENCHMARKS["math"], hub=Hub(id=str(tmp_path / "hub")), num_questions=2)
    monkeypatch.setitem(BENCHMARKS, "math", math)  # type: ignore[arg-type]
    assert [each.answer for each in loading.questions(Source(name="math"))] == ["5", "6"]
