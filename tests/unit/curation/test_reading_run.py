import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import raw_corpora
import zstandard

from megatron_octo import artifacts
from megatron_octo.curation import documents
from megatron_octo.curation.config import Language, Quality, Reading
from megatron_octo.curation.raw import reading_run
from megatron_octo.errors import ArtifactError, ConfigError

DUMP = "CC-MAIN-2019-13/segments/1/warc"


def corpus(directory: Path) -> Path:
    """MegaMath-like rows, a crawl, and what is wrong with raw corpora."""
    rows: list[dict[str, Any]] = [
        {
            "text": raw_corpora.prose(number),
            "url": f"http://a.org/{number}",
            "timestamp": "2014-05-01",
            "math_score": 0.5,
            "tags": ["x"],
        }
        for number in range(20)
    ]
    raw_corpora.write(directory / "good.parquet", rows)
    raw_corpora.write(
        directory / "mixed.jsonl", [*rows[:3], {"text": "short"}, {"txt": "?"}, {"text": "Der Satz gilt immer. " * 20}]
    )
    pages = [
        raw_corpora.record(raw_corpora.page(f"<p>So \\\\(x_{number}\\\\) is.</p>").encode()) for number in range(4)
    ]
    raw_corpora.archive(directory / DUMP / "a.warc.gz", [*pages, raw_corpora.record(b"<html></html>")])
    cut = raw_corpora.archive(directory / DUMP / "cut.warc.gz", pages)
    cut.write_bytes(cut.read_bytes()[:-100])
    return directory


def rejected(out: Path, step: str) -> Iterator[dict[str, Any]]:
    for file in sorted((out / documents.REJECTS / step).glob("*")):
        with file.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
            yield from map(json.loads, stream.read().splitlines())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("reading")
    config = Reading(inputs=(corpus(directory / "raw"),), parts=3)
    reading_run.run(config, directory / "documents", False)
    return directory / "documents"


def test_counts_have_every_reason(made: Path) -> None:
    counts = artifacts.finished(made)["counts"]
    assert {key: value for key, value in counts.items() if "doc_len" not in key and "characters" not in key} == {
        "rows_files": 4, "rows_damaged_files": 1,
        "rows_total": 34, "rows_forwarded": 33, "rows_dropped": 1, "rows_dropped_bad_row": 1,
        "extraction_total": 33, "extraction_forwarded": 32, "extraction_dropped": 1, "extraction_dropped_no_text": 1,
        "quality_total": 32, "quality_forwarded": 31, "quality_dropped": 1, "quality_dropped_too_short": 1,
        "language_total": 31, "language_forwarded": 30, "language_dropped": 1, "language_dropped_other": 1,
        "kept_documents": 30, "kept_year_2014": 23, "kept_year_2019": 7,
    }  # fmt: skip


def test_documents_know_what_their_rows_and_files_tell(made: Path) -> None:
    kept = {document.id: document for part in range(3) for document in documents.read(made, part)}
    row = kept["good.parquet/1"]
    assert row.text == raw_corpora.prose(0)
    assert row.metadata.keys() == {"url", "timestamp", "math_score", "domain", "lang", "lang_score"}
    assert (row.metadata["domain"], row.metadata["math_score"], row.metadata["lang"]) == ("a.org", 0.5, "en")
    page = next(document for document in kept.values() if "warc" in document.metadata.get("cc-path", ""))
    assert page.metadata["cc-path"].startswith(f"{DUMP}/")
    assert page.metadata["dump"] == "CC-MAIN-2019-13"
    assert page.metadata["timestamp"] == "2019-03-01T08:00:00Z"
    assert "Home" not in page.text


def test_rejects_name_file_and_line(made: Path) -> None:
    found = {reject["id"]: reject for reject in rejected(made, "rows")}
    assert found["mixed.jsonl:5"]["metadata"]["why"] == "no 'text' (present: txt)"
    assert found["mixed.jsonl:5"]["metadata"]["file"].endswith("raw/mixed.jsonl")
    assert "cut off" in found["cut.warc.gz"]["metadata"]["why"]
    assert [reject["metadata"]["filter_reason"] for reject in rejected(made, "extraction")] == ["no_text"]


def test_rows_of_html_and_fields_of_ones_own(tmp_path: Path) -> None:
    rows = [{"page": {"html": raw_corpora.page("<p>10<sup>6</sup></p>")}, "key": 7}, {"page": None, "key": 8}]
    raw_corpora.write(tmp_path / "a.jsonl.zst", rows)
    config = Reading(
        inputs=(tmp_path / "a.jsonl.zst",),
        parts=1,
        text_field="page.html",
        id_field="key",
        is_html=True,
        language=None,
        quality=None,
    )
    reading_run.run(config, tmp_path / "out", False)
    (document,) = documents.read(tmp_path / "out", 0)
    assert document.id == "7"
    assert document.text.endswith("10^6")


def test_inputs_that_change_on_the_way_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = raw_corpora.write(tmp_path / "a.jsonl", [{"text": raw_corpora.prose(1)}])
    config = Reading(inputs=(file,), parts=2, quality=Quality(min_words=None))
    reading_run.run(config, tmp_path / "out", False)
    assert "1 of the parts stay empty" in capsys.readouterr().err
    mark = tmp_path / "out" / artifacts.MARK
    artifacts.write_json(mark, json.loads(mark.read_text()) | {"done": False})  # as a kill leaves it
    os.utime(file, ns=(1, 1))
    with pytest.raises(ArtifactError, match=r"a\.jsonl changed since the first try"):
        reading_run.run(config, tmp_path / "out", False)


def test_raw_files_may_move_when_they_are_read(tmp_path: Path) -> None:
    """Their sizes and times tell whether they are the same."""
    (tmp_path / "here").mkdir()
    raw_corpora.write(tmp_path / "here" / "a.jsonl", [{"text": raw_corpora.prose(1)}])
    out = tmp_path / "out"
    reading_run.run(Reading(inputs=(tmp_path / "here",), parts=1), out, False)
    moved = (tmp_path / "here").rename(tmp_path / "there")
    assert artifacts.is_finished(out, config=Reading(inputs=(moved,), parts=1))
    reading_run.run(Reading(inputs=(moved,), parts=1), out, False)
    os.utime(moved / "a.jsonl", ns=(1, 1))
    with pytest.raises(ArtifactError, match="with another input 'file_0'"):
        reading_run.run(Reading(inputs=(moved,), parts=1), out, False)


@pytest.mark.parametrize("now", [("other",), ("here", "other"), ("other/*.jsonl",), ("nowhere",)])
def test_other_inputs_are_another_config(tmp_path: Path, now: tuple[str, ...]) -> None:
    for name in ("here", "other"):
        (tmp_path / name).mkdir()
        raw_corpora.write(tmp_path / name / f"{name}.jsonl", [{"text": raw_corpora.prose(1)}])
    out = tmp_path / "out"
    reading_run.run(Reading(inputs=(tmp_path / "here",), parts=1), out, False)
    with pytest.raises(ArtifactError, match="with another config:\n  inputs"):
        artifacts.is_finished(out, config=Reading(inputs=tuple(tmp_path / name for name in now), parts=1))


def test_a_file_that_is_no_language_model_is_said_before_anything_is_read(tmp_path: Path) -> None:
    file = raw_corpora.write(tmp_path / "a.jsonl", [{"text": "a"}])
    with pytest.raises(ConfigError, match="is no fastText model"):
        reading_run.run(Reading(inputs=(file,), language=Language(model=file)), tmp_path / "out", False)
    assert not (tmp_path / "out").exists()
