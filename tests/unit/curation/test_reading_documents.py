import errno
from pathlib import Path

import pytest
import raw_corpora
from datatrove.data import Document

from megatron_octo.curation import documents
from megatron_octo.curation.raw import streams
from megatron_octo.curation.raw.reading import Page, RawFile, ReadRaw
from megatron_octo.errors import CorpusError


def read(*files: Path, is_html: bool = False, id_field: str | None = None) -> list[Document]:
    raw = [[RawFile(path=file, label=file.name) for file in files]]
    step = ReadRaw(
        raw, text_field="text", id_field=id_field, is_html=is_html, rejects=documents.rejects(files[0].parent, "rows")
    )
    return list(step.run(None, 0, 1))


def test_what_a_row_says_itself_goes_before_what_its_path_and_url_tell(tmp_path: Path) -> None:
    row = {"text": "a", "url": "http://u.org/1", "dump": "CC-MAIN-2013-20"}
    file = raw_corpora.write(
        tmp_path / "CC-MAIN-2020-05/a.jsonl", [row, row | {"domain": "mine"}, {"text": "b", "url": "http://[x"}]
    )
    first, second, third = read(file)
    assert (first.id, first.metadata) == (
        "a.jsonl/1",
        {"url": "http://u.org/1", "dump": "CC-MAIN-2013-20", "domain": "u.org"},
    )
    assert second.metadata["domain"] == "mine"
    assert third.metadata == {"url": "http://[x", "dump": "CC-MAIN-2020-05"}


def test_rows_without_an_id_are_kept_aside(tmp_path: Path) -> None:
    file = raw_corpora.write(tmp_path / "a.jsonl", [{"text": "a", "key": 0}, {"text": "b"}, {"text": "c", "key": ""}])
    assert [document.id for document in read(file, id_field="key")] == ["0"]


def test_a_row_may_have_a_filter_reason_of_its_own(tmp_path: Path) -> None:
    """Such as one that another pipeline has dropped, and that is looked at again."""
    file = raw_corpora.write(tmp_path / "a.jsonl", [{"text": "a", "filter_reason": "too_short"}])
    assert [document.id for document in read(file)] == ["a.jsonl/1"]


def test_rows_as_datatrove_writes_them_keep_their_metadata(tmp_path: Path) -> None:
    row = {"text": "a", "id": "x", "metadata": {"url": "http://u.org/1", "year": 2019, "tags": ["b"]}, "year": 2020}
    (document,) = read(raw_corpora.write(tmp_path / "a.jsonl", [row]))
    assert document.metadata == {"id": "x", "url": "http://u.org/1", "year": 2020, "domain": "u.org"}


@pytest.mark.parametrize(("count", "kept"), [(12, {"token_count": 12}), ("many", {})])
def test_what_datatrove_adds_up_is_a_number(tmp_path: Path, count: object, kept: dict[str, object]) -> None:
    (document,) = read(raw_corpora.write(tmp_path / "a.jsonl", [{"text": "a", "token_count": count}]))
    assert document.metadata == kept


def test_records_without_an_id_have_that_of_their_place(tmp_path: Path) -> None:
    without = raw_corpora.record(b"<p>a</p>").replace(b"WARC-Record-ID", b"WARC-Unknown")
    raw_corpora.archive(tmp_path / "a.warc", [raw_corpora.record(b"<p>a</p>"), without])
    assert [document.id for document in read(tmp_path / "a.warc")][1] == "a.warc/2"


@pytest.mark.parametrize(
    ("name", "is_html", "kind"), [("a.warc", False, Page), ("a.jsonl", True, Page), ("a.jsonl", False, Document)]
)
def test_pages_are_told_from_texts(tmp_path: Path, name: str, is_html: bool, kind: type[Document]) -> None:
    file = tmp_path / name
    if name == "a.warc":
        raw_corpora.archive(file, [raw_corpora.record(b"<p>a</p>")])
    else:
        raw_corpora.write(file, [{"text": "<p>a</p>"}])
    (document,) = read(file, is_html=is_html)
    assert type(document) is kind


@pytest.mark.parametrize("name", ["a.warc", "a.jsonl"])
def test_a_failing_disk_is_no_damage(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the rest of the file would be lost for good, and the part be done."""
    (tmp_path / name).write_bytes(b"x")

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(streams.Stream, "readinto", fail)
    with pytest.raises(CorpusError, match=rf"reading .*{name} fails \(Input/output error\)"):
        read(tmp_path / name)


def test_large_documents_make_groups_of_their_own() -> None:
    texts = ["a" * 6, "b" * 6, "c" * 20, "d", "e", "f"]
    found = documents.groups((Document(text=text, id=text) for text in texts), characters=10, most=2)
    assert [[each.text[0] for each in group] for group in found] == [["a", "b"], ["c"], ["d", "e"], ["f"]]
