from pathlib import Path

import pytest
import raw_corpora

from megatron_octo.curation.raw.archives import Page, decoded, pages
from megatron_octo.curation.raw.streams import DamagedError


def read(file: Path) -> tuple[list[Page | None], str]:
    """What a file gives, and what is wrong with it."""
    found: list[Page | None] = []
    try:
        found.extend(pages(file))
    except DamagedError as error:
        return found, str(error)
    return found, ""


def records(count: int) -> list[bytes]:
    return [
        raw_corpora.record(f"<p>page {number}</p>".encode() + bytes(range(32, 127)) * number) for number in range(count)
    ]


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_reads_html_responses(tmp_path: Path, name: str) -> None:
    several = [
        raw_corpora.record(b"<p>one</p>"),
        raw_corpora.record(b"{}", kind="application/json"),
        raw_corpora.record(b"<p>gone</p>", status="404 Not Found"),
        raw_corpora.record("<p>Größe</p>".encode("latin-1"), kind="text/html; charset=iso-8859-1"),
    ]
    found, damage = read(raw_corpora.archive(tmp_path / name, several))
    assert not damage
    assert [page and page.html for page in found] == ["<p>one</p>", None, None, "<p>Größe</p>"]
    assert found[0] == Page(
        record="<urn:uuid:00000010>",
        url="https://maths.example.org/proofs",
        timestamp="2019-03-01T08:00:00Z",
        html="<p>one</p>",
    )


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
@pytest.mark.parametrize(("cut", "whole"), [(1, 6), (60, 5), (-60, 4)])
def test_a_cut_file_gives_what_is_whole_and_says_so(tmp_path: Path, name: str, cut: int, whole: int) -> None:
    """Bytes cut off the end, or with a minus beyond the last record."""
    file = raw_corpora.archive(tmp_path / name, records(6))
    last = len(raw_corpora.archive(tmp_path / f"last.{name}", records(6)[5:]).read_bytes())
    file.write_bytes(file.read_bytes()[: -cut if cut > 0 else cut - last])
    found, damage = read(file)
    assert "cut off" in damage or "middle of a record" in damage
    assert len(found) == whole


def test_an_overwritten_file_gives_what_comes_before(tmp_path: Path) -> None:
    file = raw_corpora.archive(tmp_path / "a.warc.gz", records(6))
    start = len(raw_corpora.archive(tmp_path / "b.warc.gz", records(3)).read_bytes())
    content = bytearray(file.read_bytes())
    content[start : start + 60] = b"x" * 60
    file.write_bytes(content)
    found, damage = read(file)
    assert "decompression fails" in damage
    assert len(found) == 3


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.warc").write_bytes(b"hello " * 100 + b"\r\n\r\n")
    assert read(tmp_path / "a.warc")[1] == "Invalid WARC header"


@pytest.mark.parametrize(
    ("page", "declared", "expected"),
    [
        ("é".encode(), "utf-8", "é"),
        ("é".encode("latin-1"), "utf-8", "é"),
        ("é".encode("latin-1"), "no-such-charset", "é"),
        ("<meta charset=shift_jis><p>数学".encode("shift_jis"), None, "<meta charset=shift_jis><p>数学"),
        (b"\xef\xbb\xbfa", None, "a"),
    ],
)
def test_charsets(page: bytes, declared: str | None, expected: str) -> None:
    assert decoded(page, declared) == expected
