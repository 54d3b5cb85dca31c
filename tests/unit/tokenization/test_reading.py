import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from megatron_octo.errors import CorpusError
from megatron_octo.tokenization import reading

ROWS = [
    {"question": "1+1?", "answer": "2", "meta": {"body": "é"}},
    {"question": "2*3?", "answer": "6", "meta": {"body": ""}},
]


def jsonl(path: Path) -> None:
    path.write_text("\n\n".join(json.dumps(row) for row in ROWS) + "\n")


def gz(path: Path) -> None:
    path.write_bytes(gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)))


def parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


KINDS = [("a.jsonl", jsonl), ("a.jsonl.gz", gz), ("a.parquet", parquet)]


@pytest.mark.parametrize(("name", "write"), KINDS)
@pytest.mark.parametrize(
    ("field", "expected"),
    [("answer", ["2", "6"]), ("meta.body", ["é", ""]), ("question,answer", ["1+1?\n2", "2*3?\n6"])],
)
def test_texts_of_every_kind(tmp_path: Path, name: str, write, field: str, expected: list[str]) -> None:
    write(tmp_path / name)
    assert list(reading.texts([tmp_path / name], field)) == expected


@pytest.mark.parametrize(("name", "write"), KINDS)
def test_progress_adds_up_to_the_file(tmp_path: Path, name: str, write) -> None:
    write(tmp_path / name)
    batches = list(reading.batches([tmp_path / name], "answer"))
    assert sum(batch.file_bytes for batch in batches) == (tmp_path / name).stat().st_size


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{oops", r"a\.jsonl, line 2: not JSON"),
        (b'{"body": "x"}', r"a\.jsonl, line 2: no field 'text' \(present: body\); set text_field"),
        (b'["text"]', r"a\.jsonl, line 2: no field 'text' \(present: none\)"),
        (b'{"text": null}', r"a\.jsonl, line 2: field 'text' is NoneType, text expected"),
        (b'{"text": "\xff"}', r"a\.jsonl, line 2: not UTF-8"),
        (b'{"text": "\\ud800"}', r"a\.jsonl, line 2: the text holds half a surrogate pair"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(CorpusError, match=message):
        list(reading.texts([tmp_path / "a.jsonl"], "text"))


def cut(path: Path) -> None:
    gz(path)
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("name", "write", "field", "message"),
    [
        ("missing.jsonl", lambda path: None, "text", r"cannot read the corpus file .*missing\.jsonl: No such file"),
        ("a.jsonl", lambda path: path.mkdir(), "text", r"cannot read the corpus file .*a\.jsonl: Is a directory"),
        ("a.txt", jsonl, "text", r"a\.txt: unknown kind of corpus file; allowed are \.jsonl"),
        ("a.jsonl.gz", cut, "answer", r"a\.jsonl\.gz is damaged or cut off"),
        ("a.jsonl.gz", jsonl, "answer", r"a\.jsonl\.gz is damaged or cut off"),
        ("a.parquet", jsonl, "answer", r"a\.parquet cannot be read as Parquet"),
        ("a.parquet", parquet, "text", r"a\.parquet: no field 'text' \(present: answer, meta, question\)"),
    ],
)
def test_bad_file_is_named(tmp_path: Path, name: str, write, field: str, message: str) -> None:
    write(tmp_path / name)
    with pytest.raises(CorpusError, match=message):
        list(reading.texts([tmp_path / name], field))


def test_no_files() -> None:
    with pytest.raises(CorpusError, match="no input files"):
        reading.check([])
