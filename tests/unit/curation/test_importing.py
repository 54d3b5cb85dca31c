"""Published data sets: rows in the authors' columns, their text in the blend's format."""

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from megatron_octo import artifacts, recipes
from megatron_octo.curation import documents
from megatron_octo.curation.config import Importing, Published
from megatron_octo.curation.data_sets import importing, importing_run, published
from megatron_octo.errors import ArtifactError, ConfigError, CorpusError, ResourceError
from megatron_octo.recipes.corpora import CORPORA

USER, BOT = {"role": "user", "content": "What is 1+1?"}, {"role": "assistant", "content": "2"}
TRACE = "<think>\nOne and one.\n</think>\n\nIt is \\boxed{2}."
OPENR1 = {
    "problem": "What is 1+1?",
    "solution": "2",
    "generations": ["<think>\nHm.\n</think>\n3", TRACE],
    "is_reasoning_complete": [True, True],
    "correctness_math_verify": [False, True],
    "correctness_llama": None,
}
AM = {"question": "What is 1+1?", "answer": TRACE, "ground_truth": "2", "verify_score": 1.0, "ppl": 1.5}
NUMINA = {"problem": "What is 1+1?", "solution": "It is 2.", "problem_is_valid": "Yes", "solution_is_valid": "Yes"}
WILDCHAT = {
    "model": "gpt-4-0314",
    "language": "English",
    "toxic": False,
    "conversation": [USER | {"toxic": False}, BOT],
}
ASKED, TURNS = "What is 1+1?", "User:What is 1+1?\nAssistant:2"


def write_jsonl(file: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def imported(tmp_path: Path, corpus: Published, *inputs: Path, out: str = "out", **settings: Any) -> Path:
    config = Importing(corpus=corpus, inputs=inputs, **({"parts": 2} | settings))
    importing_run.run(config, tmp_path / out, False)
    return tmp_path / out


def texts(stage: Path, parts: int = 2) -> list[str]:
    return [document.text for part in range(parts) for document in documents.read(stage, part)]


@pytest.mark.parametrize(
    ("corpus", "row", "text"),
    [
        (Published.DCLM_BASELINE, {"text": "Once upon a time.", "url": "https://a.example"}, "Once upon a time."),
        (Published.MEGAMATH_WEB_PRO, {"text": "A sum."}, "A sum."),
        (Published.MEGAMATH_CODE, {"text": "print(1 + 1)", "blob_id": "12ab"}, "print(1 + 1)"),
        (Published.MEGAMATH_TRANSLATED_CODE, {"text": "print(2)"}, "print(2)"),
        (Published.MEGAMATH_QA, {"text": "Q: 1+1? A: 2"}, "Q: 1+1? A: 2"),
        (Published.MEGAMATH_TEXT_CODE_BLOCK, {"text": "```\n1\n```"}, "```\n1\n```"),
        (Published.OPENR1_MATH_220K, OPENR1, f"{ASKED}\n{TRACE}"),
        (
            Published.OPENR1_MATH_220K,
            OPENR1 | {"correctness_math_verify": [False, False], "correctness_llama": [True, False]},
            f"{ASKED}\n<think>\nHm.\n</think>\n3",
        ),
        (Published.AM_DEEPSEEK_DISTILLED_40M, AM, f"{ASKED}\n{TRACE}"),
        (
            Published.AM_DEEPSEEK_DISTILLED_40M,
            AM | {"answer": "So.\n</think>\n2"},
            f"{ASKED}\n<think>\nSo.\n</think>\n2",
        ),
        (Published.OPENMATHINSTRUCT2, {"problem": ASKED, "generated_solution": "It is 2."}, f"{ASKED}\nIt is 2."),
        (Published.NUMINAMATH_1_5, NUMINA, f"{ASKED}\nIt is 2."),
        (Published.TULU3_PERSONAS_IF, {"messages": [USER, BOT], "prompt": ASKED, "constraints": []}, TURNS),
        (Published.WILDCHAT, WILDCHAT, TURNS),
        (Published.ULTRACHAT_200K, {"prompt_id": "a", "messages": [USER, BOT, USER, BOT]}, f"{TURNS}\n{TURNS}"),
        (Published.INSTRUCTION, WILDCHAT, TURNS),
        (Published.INSTRUCTION, {"messages": [USER, BOT]}, TURNS),
    ],
)
def test_text_of_a_row(corpus: Published, row: dict[str, Any], text: str) -> None:
    assert published.text_of(published.RECIPES[corpus], row) == text


@pytest.mark.parametrize(
    ("corpus", "row", "reason"),
    [
        (Published.DCLM_BASELINE, {"text": " \n"}, "no_text"),
        (Published.OPENR1_MATH_220K, OPENR1 | {"correctness_math_verify": [False, False]}, "no_verified_trace"),
        (Published.OPENR1_MATH_220K, OPENR1 | {"is_reasoning_complete": [True, False]}, "no_verified_trace"),
        (Published.OPENR1_MATH_220K, OPENR1 | {"generations": ["", "\\boxed{2}"]}, "no_thinking"),
        (Published.AM_DEEPSEEK_DISTILLED_40M, AM | {"verify_score": 0.0}, "not_verified"),
        (Published.AM_DEEPSEEK_DISTILLED_40M, AM | {"verify_score": None}, "not_verified"),
        (Published.OPENMATHINSTRUCT2, {"problem": ASKED, "generated_solution": None}, "no_generated_solution"),
        (Published.NUMINAMATH_1_5, NUMINA | {"solution": None}, "no_solution"),
        (Published.NUMINAMATH_1_5, NUMINA | {"solution_is_valid": "Incomplete"}, "not_valid"),
        (Published.WILDCHAT, WILDCHAT | {"model": "gpt-3.5-turbo-0301"}, "not_gpt4"),
        (Published.WILDCHAT, WILDCHAT | {"language": "German"}, "not_english"),
        (Published.WILDCHAT, WILDCHAT | {"toxic": True}, "toxic"),
        (Published.ULTRACHAT_200K, {"messages": [USER]}, "not_in_turns"),
        (Published.ULTRACHAT_200K, {"messages": []}, "not_in_turns"),
        (Published.ULTRACHAT_200K, {"messages": [BOT, USER]}, "not_in_turns"),
        (Published.ULTRACHAT_200K, {"messages": [USER, BOT | {"content": ""}]}, "no_content"),
    ],
)
def test_rows_left_out(corpus: Published, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(published.UnwantedError, match=f"^{reason}$"):
        published.text_of(published.RECIPES[corpus], row)


def test_every_corpus_is_known_to_the_blends() -> None:
    assert set(published.RECIPES) == set(Published)
    parts_of_instruction = {Published.TULU3_PERSONAS_IF, Published.WILDCHAT, Published.ULTRACHAT_200K}
    for corpus, recipe in published.RECIPES.items():
        assert recipes.load(f"published.{corpus.value}").corpus is corpus
        if corpus not in parts_of_instruction and recipe.hub:
            assert CORPORA[corpus.value].datasets == recipe.hub


def test_a_directory_gives_documents(tmp_path: Path) -> None:
    data = tmp_path / "NuminaMath"
    write_jsonl(data / "data" / "train-00000.jsonl", [NUMINA, NUMINA | {"solution_is_valid": "No"}])
    rows = [NUMINA | {"problem": f"What is {number}?", "extra": [1]} for number in range(600)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), data / "data" / "train-00001.parquet")
    out = imported(tmp_path, Published.NUMINAMATH_1_5, data)
    found = [document for part in (0, 1) for document in documents.read(out, part)]
    assert len(found) == 601
    assert found[0].id == "numinamath_1_5/train-00001.parquet/1"
    assert [found[0].text, found[-1].text] == ["What is 0?\nIt is 2.", "What is 1+1?\nIt is 2."]
    counts = artifacts.finished(out)["counts"]
    assert counts["import_total"] == 602
    assert counts["import_dropped_not_valid"] == 1
    assert counts["kept_documents"] == 601


@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl.zst"])
def test_other_kinds_of_files(tmp_path: Path, ending: str) -> None:
    rows, file = [{"text": "one"}, {"text": "two"}], tmp_path / f"rows{ending}"
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if ending == ".jsonl.gz":
        file.write_bytes(gzip.compress(lines[:16]) + gzip.compress(lines[16:]))
    else:
        file.write_bytes(zstandard.compress(lines[:16]) + zstandard.compress(lines[16:]))
    assert texts(imported(tmp_path, Published.DCLM_BASELINE, file)) == ["one", "two"]


def test_of_a_snapshot_only_the_corpus_is_read(tmp_path: Path) -> None:
    snapshot = tmp_path / "MegaMath"
    write_jsonl(snapshot / "megamath-qa" / "llama3.3" / "a.jsonl", [{"text": "qa"}])
    write_jsonl(snapshot / "megamath-web" / "b.jsonl", [{"text": "web"}])
    assert texts(imported(tmp_path, Published.MEGAMATH_QA, snapshot)) == ["qa"]
    with pytest.raises(
        CorpusError, match=r"none of the 2 files .* is of megamath_web_pro, .*name the files themselves"
    ):
        imported(tmp_path, Published.MEGAMATH_WEB_PRO, snapshot, out="other")
    assert texts(
        imported(tmp_path, Published.MEGAMATH_WEB_PRO, snapshot / "megamath-web" / "b.jsonl", out="named")
    ) == ["web"]


@pytest.mark.parametrize(
    ("corpus", "path", "belongs"),
    [
        (Published.OPENR1_MATH_220K, "/d/OpenR1/data/train-00000-of-00010.parquet", True),
        (Published.OPENR1_MATH_220K, "/all/OpenR1/extended/train-00000-of-00010.parquet", True),
        (Published.OPENR1_MATH_220K, "/d/OpenR1/all/train-00000-of-00020.parquet", False),
        (Published.AM_DEEPSEEK_DISTILLED_40M, "/d/AM/math_r1_3pass.jsonl", True),
        (Published.AM_DEEPSEEK_DISTILLED_40M, "/d/AM/math_1.5b_3pass.jsonl", False),
        (Published.AM_DEEPSEEK_DISTILLED_40M, "/d/AM/code_r1_1pass.jsonl", False),
        (Published.OPENMATHINSTRUCT2, "/d/data/train-00000-of-00032.parquet", True),
        (Published.OPENMATHINSTRUCT2, "/d/data/train_1M-00000-of-00003.parquet", False),
        (Published.ULTRACHAT_200K, "/d/data/train_sft-00000-of-00003.parquet", True),
        (Published.ULTRACHAT_200K, "/d/data/train_gen-00000-of-00003.parquet", False),
        (Published.ULTRACHAT_200K, "/d/data/test_sft-00000-of-00001.parquet", False),
    ],
)
def test_which_files_belong(tmp_path: Path, corpus: Published, path: str, belongs: bool) -> None:
    directory = tmp_path / "set"
    write_jsonl(directory / f"{path}.jsonl".lstrip("/"), [])
    found = directory / f"{path}.jsonl".lstrip("/")
    if belongs:
        assert [file.path for file in importing.local_files(corpus, [directory])] == [str(found)]
    else:
        with pytest.raises(CorpusError, match="none of the 1 files"):
            importing.local_files(corpus, [directory])


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    one, two = (write_jsonl(tmp_path / "raw" / name, [{"text": name}]) for name in ("a.jsonl", "b.jsonl"))
    files = importing.local_files(Published.DCLM_BASELINE, [tmp_path / "raw", one, two])
    assert [file.label for file in files] == ["a.jsonl", "b.jsonl"]


def test_instruction_is_three_sets_in_one(tmp_path: Path) -> None:
    tulu = write_jsonl(tmp_path / "tulu" / "train-0.jsonl", [{"messages": [USER, BOT], "constraints": []}])
    wild = write_jsonl(tmp_path / "wild" / "train-0.jsonl", [WILDCHAT, WILDCHAT | {"model": "gpt-3.5-turbo"}])
    ultra = write_jsonl(tmp_path / "ultra" / "train_sft-0.jsonl", [{"messages": [USER, BOT], "prompt_id": "a"}])
    out = imported(tmp_path, Published.INSTRUCTION, *(file.parent for file in (tulu, wild, ultra)))
    assert texts(out) == [TURNS] * 3
    assert artifacts.finished(out)["counts"]["import_dropped_not_gpt4"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n{"text": \n', r"rows.jsonl, row 2: not JSON.*mend the row"),
        (b'{"text": "a"}\n["text"]\n', r"rows.jsonl, row 2: a JSON list, not an object"),
        (b'{"text": "a"}\n{"txt": "b", "id": 1}\n', r"rows.jsonl, row 2 has the columns id, txt; expected are text; "),
        (b'{"text": ["a"]}\n', r"rows.jsonl, row 1 holds list in the column text; text is expected"),
    ],
)
def test_damaged_rows_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        imported(tmp_path, Published.DCLM_BASELINE, file)
    assert not (tmp_path / "out" / "documents" / "00000.jsonl.zst").exists()


def test_a_table_without_the_columns(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"blob_id": "12ab", "score": 5}]), file)
    message = (
        r"rows.parquet, row 1 has the columns blob_id, score; expected are text; megamath_code is published as ids"
    )
    with pytest.raises(CorpusError, match=message):
        imported(tmp_path, Published.MEGAMATH_CODE, file)


@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_a_file_that_is_cut_off(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"rows{ending}"
    lines = "".join(json.dumps({"text": f"number {number * number}"}) + "\n" for number in range(1_000)).encode()
    if ending == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([json.loads(line) for line in lines.splitlines()]), file)
        whole = file.read_bytes()
    else:
        whole = gzip.compress(lines) if ending == ".jsonl.gz" else zstandard.compress(lines)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorpusError, match=rf"rows{ending} is damaged .*fetch it again"):
        imported(tmp_path, Published.DCLM_BASELINE, file)


def test_same_bytes_with_more_workers_and_limit(tmp_path: Path) -> None:
    for number in range(5):
        rows = [{"text": f"{number} {row}"} for row in range(10 * number)]
        write_jsonl(tmp_path / "dclm" / f"{number}.jsonl", rows)
    one = imported(tmp_path, Published.DCLM_BASELINE, tmp_path / "dclm", out="one", parts=3)
    two = imported(tmp_path, Published.DCLM_BASELINE, tmp_path / "dclm", out="two", parts=3, workers=2)
    assert artifacts.finished(one)["outputs"] == artifacts.finished(two)["outputs"]
    some = imported(tmp_path, Published.DCLM_BASELINE, tmp_path / "dclm", out="some", parts=3, limit=4)
    assert len(texts(some, 3)) == 12


def test_files_that_change_between_tries(tmp_path: Path) -> None:
    good = write_jsonl(tmp_path / "dclm" / "0.jsonl", [{"text": "a"}])
    bad = write_jsonl(tmp_path / "dclm" / "1.jsonl", [{"txt": "b"}])
    with pytest.raises(CorpusError):
        imported(tmp_path, Published.DCLM_BASELINE, good.parent)
    write_jsonl(bad, [{"text": "b"}])
    with pytest.raises(ArtifactError, match=r"1.jsonl changed since the first try"):
        imported(tmp_path, Published.DCLM_BASELINE, good.parent)


def test_without_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CorpusError, match="published as ids of files of The Stack v2"):
        imported(tmp_path, Published.MEGAMATH_CODE)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = (
        r"cannot read HuggingFaceH4/ultrachat_200k from the Hugging Face hub .*name a copy on this machine with --input"
    )
    with pytest.raises(ResourceError, match=message):
        imported(tmp_path, Published.ULTRACHAT_200K)


def test_nothing_left_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"text": ""}])
    imported(tmp_path, Published.DCLM_BASELINE, file)
    said = capsys.readouterr().err
    assert "import dclm_baseline: 1 file, 13 B, in 2 parts, 1 of which stay empty: a file is never cut" in said
    assert "warning: no document is left" in said


def test_limits_are_positive() -> None:
    with pytest.raises(ConfigError, match="limit is 0; it must be at least 1"):
        Importing(corpus=Published.WILDCHAT, limit=0)
