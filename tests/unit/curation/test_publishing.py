"""Documents as Parquet in the published rows, and as often the same bytes as they are written."""

import datetime
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from datatrove.data import Document

from megatron_octo import artifacts
from megatron_octo.curation import documents
from megatron_octo.curation.config import InParts, Publication
from megatron_octo.curation.data_sets import publishing, publishing_run
from megatron_octo.errors import ArtifactError, ConfigError

FULL = {
    "cc-path": "CC-MAIN-2019-13/segments/1/warc/a.warc.gz",
    "domain": "a.example",
    "finemath_score": 0.58,
    "lang": "en",
    "lang_score": 0.97,
    "timestamp": "2019-03-18T10:00:00Z",
    "url": "https://a.example/sums",
    "math_score": 0.91,
    "refined": True,
    "refiner": "Llama-3.3-70B-Instruct",
    "refined_chunks": 2,
    "original_characters": 1_200,
    "content_type": "text/html",
}


def write_stage(directory: Path, *parts: list[Document]) -> Path:
    """A finished step that wrote these documents."""
    every = [document for part in parts for document in part]
    with artifacts.stage(directory, kind="refined", config=InParts(parts=len(parts))) as stage:
        (directory / documents.FOLDER).mkdir()
        for number, part in enumerate(parts):
            lines = b"".join(documents.line_of(each.id, each.text, each.metadata) for each in part)
            documents.file_of(directory, number).write_bytes(zstandard.compress(lines))
        stage.counts |= {"kept_documents": len(every), "kept_characters": sum(len(each.text) for each in every)}
    return directory


def published(tmp_path: Path, *parts: list[Document], out: str = "corpus", **settings: Any) -> Path:
    step = tmp_path / "refined"
    if not step.exists():
        write_stage(step, *parts)
    publishing_run.run(Publication(documents=step, parts=len(parts), **settings), tmp_path / out, False)
    return tmp_path / out


def rows(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pyarrow.parquet.read_table(file).to_pylist()
    return found


def test_rows_of_the_published_schema_with_lineage(tmp_path: Path) -> None:
    bare = Document(text="No more is known.", id="b/1", metadata={"math_score": "0.5", "url": ""})
    out = published(tmp_path, [Document(text="1 + 1 = 2", id="a/1", metadata=dict(FULL))], [bare])
    row = rows(out / "data" / "part-00000.parquet")[0]
    assert list(row)[:10] == [
        "text", "id", "cc-path", "domain", "finemath_score", "lang", "lang_score", "timestamp", "url", "math_score"
    ]  # fmt: skip
    kept = {key: value for key, value in FULL.items() if key != "content_type"}
    assert row == {"text": "1 + 1 = 2", "id": "a/1", **kept, "year": 2019}
    other = rows(out / "data" / "part-00001.parquet")[0]
    assert {key: value for key, value in other.items() if value is not None} == {
        "text": "No more is known.",
        "id": "b/1",
        "math_score": 0.5,
    }


def test_types_do_not_depend_on_what_is_there(tmp_path: Path) -> None:
    full = Document(text="a", id="1", metadata=dict(FULL))
    out = published(tmp_path, [full], [], [Document(text="b", id="2")])
    schemas = {pyarrow.parquet.read_schema(file) for file in sorted((out / "data").iterdir())}
    assert schemas == {publishing.SCHEMA}
    assert artifacts.finished(out)["counts"] == {
        "published_characters": 2,
        "published_documents": 2,
        "published_year_2019": 1,
        "published_year_unknown": 1,
        "read_documents": 2,
    }


@pytest.mark.parametrize(
    ("name", "value", "row"),
    [
        ("lang_score", "0.25", 0.25),
        ("math_score", 1, 1.0),
        ("original_characters", 12.0, 12),
        ("timestamp", datetime.date(2019, 3, 18), "2019-03-18"),
        ("domain", 5, "5"),
        ("url", "", None),
    ],
)
def test_values_are_brought_to_their_type(name: str, value: Any, row: Any) -> None:
    assert publishing.row_of(Document(text="a", id="1", metadata={name: value}))[name] == row


@pytest.mark.parametrize(("name", "value"), [("math_score", "high"), ("refined", "perhaps"), ("lang_score", {})])
def test_values_of_another_type_are_null_counted_and_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, value: Any
) -> None:
    """The raw rows said it; after all steps are paid is no time for an error."""
    whole, other = (
        Document(text="a", id="a/1", metadata={"math_score": 0.5}),
        Document(text="b", id="a/2", metadata={name: value}),
    )
    out = published(tmp_path, [whole, other])
    assert [row[name] for row in rows(publishing.file_of(out, 0))] == [whole.metadata.get(name), None]
    counts = artifacts.finished(out)["counts"]
    assert {key: count for key, count in counts.items() if "unfit" in key} == {f"published_unfit_{name}": 1}
    assert f"1 document with a {name} that is no " in capfd.readouterr().err


def test_same_bytes_each_time(tmp_path: Path) -> None:
    parts = [
        [Document(text=f"{part} {row}", id=f"{part}/{row}", metadata=dict(FULL)) for row in range(50)]
        for part in range(3)
    ]
    one, two = published(tmp_path, *parts, out="one"), published(tmp_path, *parts, out="two", workers=2)
    assert artifacts.finished(one)["outputs"] == artifacts.finished(two)["outputs"]
    assert len(artifacts.finished(one)["outputs"]) == 4


def test_parts_are_those_of_the_documents(tmp_path: Path) -> None:
    write_stage(tmp_path / "refined", [], [])
    with pytest.raises(ConfigError, match="give parts=2"):
        publishing_run.run(Publication(documents=tmp_path / "refined", parts=3), tmp_path / "corpus", False)


def test_unfinished_steps_are_refused(tmp_path: Path) -> None:
    write_stage(tmp_path / "refined", [])
    config = Publication(documents=tmp_path / "refined", steps=(tmp_path / "unique",), parts=1)
    with pytest.raises(ArtifactError, match=r"unique does not exist"):
        publishing_run.run(config, tmp_path / "corpus", False)


def test_a_step_made_anew_with_other_settings_makes_the_card_anew(tmp_path: Path) -> None:
    """Also where its documents are the same."""
    write_stage(tmp_path / "refined", [])
    published(tmp_path, [], steps=(tmp_path / "refined",))
    artifacts.add_counts(tmp_path / "refined", {"refined_dropped": 0})
    with pytest.raises(ArtifactError, match="another input 'steps/refined/mark'"):
        published(tmp_path, [], steps=(tmp_path / "refined",))
