"""Pages as files: WARC as Common Crawl writes it, Parquet and JSONL with the columns of MegaMath-Web.

Columns that say what a pipeline measured (language, scores) are left out; nothing has measured these pages.
"""

import contextlib
import gzip
import io
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from fastwarc.warc import WarcRecord, WarcRecordType

from megatron_octo import artifacts

ROW = pa.schema([(name, pa.string()) for name in ("text", "id", "url", "domain", "cc-path", "timestamp")])


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A page as a crawler found it."""

    url: str
    #: HTML in WARC, text in the others.
    body: str
    dump: str
    #: Its place in the file.
    number: int

    @property
    def timestamp(self) -> str:
        """Some minute of the dump's year."""
        year, week = self.dump.split("-")[2:]
        month, day = divmod(int(week) * 7 % 336, 28)
        return f"{year}-{month + 1:02d}-{day + 1:02d}T{self.number // 60 % 24:02d}:{self.number % 60:02d}:00Z"

    def row(self) -> dict[str, str]:
        """Under MegaMath-Web's names."""
        return {
            "text": self.body,
            "id": f"{self.dump}/{self.number}",
            "url": self.url,
            "domain": urlsplit(self.url).netloc,
            "cc-path": f"crawl-data/{self.dump}/segments/1/warc/1.warc.gz",
            "timestamp": self.timestamp,
        }


def write_warc(file: Path, pages: Iterable[Fetched]) -> None:
    """A gzip member per record, as readers expect who begin at any of them."""
    with replacing(file) as stream:
        for page in pages:
            plain = io.BytesIO()
            _record(page).write(plain, checksum_data=True)
            stream.write(gzip.compress(plain.getvalue(), compresslevel=4, mtime=0))


def write_jsonl(file: Path, pages: Iterable[Fetched]) -> None:
    with replacing(file) as raw, zstandard.ZstdCompressor(level=3).stream_writer(raw, closefd=False) as stream:
        for page in pages:
            stream.write(orjson.dumps(page.row(), option=orjson.OPT_APPEND_NEWLINE))


def write_parquet(file: Path, pages: Iterable[Fetched]) -> None:
    with replacing(file) as stream:
        pq.write_table(pa.Table.from_pylist([page.row() for page in pages], schema=ROW), stream, compression="zstd")


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """The file appears when it is complete."""
    with artifacts.appearing(file) as temporary, temporary.open("wb") as stream:
        yield stream


def _record(page: Fetched) -> WarcRecord:
    record = WarcRecord()
    # A name that is drawn anew would make other bytes every time.
    record.init_headers(WarcRecordType.response, record_urn=str(uuid.uuid5(uuid.NAMESPACE_URL, page.url)).encode())
    record.headers["WARC-Date"] = page.timestamp
    record.headers["WARC-Target-URI"] = page.url
    record.headers["Content-Type"] = "application/http; msgtype=response"
    body = page.body.encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(body)}\r\n\r\n"
    record.set_bytes_content(head.encode() + body)
    return record
