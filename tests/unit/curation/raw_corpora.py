"""Small raw corpora made on the spot: rows, web pages, and files that are cut or overwritten."""

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import zstandard

PROSE = (
    "The theorem of Pythagoras says that in a triangle with a right angle the squares over the two short sides have together the "
    "area of the square over the long one, and there are hundreds of proofs of it, some of them by people who were no mathematicians."
)


def prose(number: int) -> str:
    """English that all rules keep."""
    return f"{PROSE} This is proof number {number}."


def page(body: str) -> str:
    return f"<html><head><title>Proofs</title></head><body><nav><a href='/'>Home</a></nav><article><p>{PROSE}</p>{body}</article></body></html>"


def lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows in the form that the file's name says."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
        return file
    text = lines(rows)
    if file.suffix == ".gz":
        text = gzip.compress(text, mtime=0)
    if file.suffix == ".zst":
        text = zstandard.compress(text)
    file.write_bytes(text)
    return file


def record(
    html: bytes,
    *,
    url: str = "https://maths.example.org/proofs",
    kind: str = "text/html; charset=utf-8",
    status: str = "200 OK",
) -> bytes:
    """One response of a WARC file."""
    answer = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n\r\n".encode() + html
    head = {
        "WARC-Type": "response",
        "WARC-Target-URI": url,
        "WARC-Date": "2019-03-01T08:00:00Z",
        "WARC-Record-ID": f"<urn:uuid:{len(html):08d}>",
        "Content-Type": "application/http; msgtype=response",
        "Content-Length": str(len(answer)),
    }
    return (
        "".join(["WARC/1.0\r\n", *(f"{key}: {value}\r\n" for key, value in head.items()), "\r\n"]).encode()
        + answer
        + b"\r\n\r\n"
    )


def archive(file: Path, records: Iterable[bytes]) -> Path:
    """A WARC file; compressed record by record where its name ends in .gz, as crawls are."""
    file.parent.mkdir(parents=True, exist_ok=True)
    packed = file.suffix == ".gz"
    file.write_bytes(b"".join(gzip.compress(each, mtime=0) if packed else each for each in records))
    return file
