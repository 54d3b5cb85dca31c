"""The text of a corpus out of JSONL (plain or .gz) and Parquet files, in batches. Memory does not grow with the files.

A text field is a dotted path (`text`, `meta.body`). Several, with commas between them, are joined by a newline:
`question,answer` makes one document of a GSM8K row. Blank lines of a JSONL file are passed over; every other line must be an
object with the field, and the error names file and line.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from megatron_octo.errors import CorpusError

BATCH_DOCUMENTS = 1000
JSONL_SUFFIXES = (".jsonl", ".json", ".ndjson")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Texts in file order, and how far into the files they brought the reader."""

    texts: list[str]
    #: Bytes of input files read since the last batch, for progress.
    file_bytes: int


def batches(paths: Sequence[Path], text_field: str) -> Iterator[Batch]:
    """All texts of the files, in order. Raises `CorpusError` with file and line."""
    check(paths)
    fields = [field.split(".") for field in text_field.split(",")]
    for path in paths:
        yield from _reader(path)(path, fields)


def texts(paths: Sequence[Path], text_field: str) -> Iterator[str]:
    """The same, one by one."""
    for batch in batches(paths, text_field):
        yield from batch.texts


def check(paths: Sequence[Path]) -> int:
    """Bytes of all files. Raises `CorpusError` before any work when one is missing, unreadable or of an unknown kind."""
    if not paths:
        raise CorpusError("no input files given; name JSONL or Parquet files")
    return sum(_check_one(path) for path in paths)


def _check_one(path: Path) -> int:
    _reader(path)
    try:
        with path.open("rb"):
            return path.stat().st_size
    except OSError as error:
        raise CorpusError(f"cannot read the corpus file {path}: {error.strerror}") from error


def _reader(path: Path) -> Callable[[Path, list[list[str]]], Iterator[Batch]]:
    name = path.name.removesuffix(".gz")
    if name.endswith(JSONL_SUFFIXES):
        return _read_jsonl
    if path.suffix == ".parquet":
        return _read_parquet
    raise CorpusError(
        f"{path}: unknown kind of corpus file; allowed are {', '.join(JSONL_SUFFIXES)}, the same with .gz, and .parquet"
    )


def _read_jsonl(path: Path, fields: list[list[str]]) -> Iterator[Batch]:
    with path.open("rb") as raw:
        lines: Iterable[bytes] = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
        documents: list[str] = []
        reported = 0
        for number, line in _numbered(lines, path):
            documents.append(_text_of_line(line, fields, f"{path}, line {number}"))
            if len(documents) == BATCH_DOCUMENTS:
                # The raw position counts compressed bytes, and only there does a total exist.
                yield Batch(texts=documents, file_bytes=raw.tell() - reported)
                documents, reported = [], raw.tell()
        yield Batch(texts=documents, file_bytes=raw.tell() - reported)


def _numbered(lines: Iterable[bytes], path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorpusError(f"{path} is damaged or cut off ({error}); fetch or write it again") from error


def _text_of_line(line: bytes, fields: list[list[str]], where: str) -> str:
    try:
        row = json.loads(line)
    except UnicodeDecodeError as error:
        raise CorpusError(f"{where}: not UTF-8 ({error.reason}); convert the file to UTF-8") from error
    except json.JSONDecodeError as error:
        raise CorpusError(f"{where}: not JSON ({error}); every line must be one JSON object") from error
    return _join(row, fields, where)


def _read_parquet(path: Path, fields: list[list[str]]) -> Iterator[Batch]:
    columns = list(dict.fromkeys(field[0] for field in fields))
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            missing = set(columns) - set(file.schema_arrow.names)
            if missing:
                raise CorpusError(_lacks(f"{path}", min(missing), file.schema_arrow.names))
            bytes_per_row = path.stat().st_size / max(1, file.metadata.num_rows)
            first = 1
            for rows in file.iter_batches(batch_size=BATCH_DOCUMENTS, columns=columns, use_threads=False):
                yield _parquet_batch(rows.to_pylist(), fields, path, first, bytes_per_row)
                first += rows.num_rows
    except pyarrow.ArrowException as error:
        raise CorpusError(f"{path} cannot be read as Parquet: {error}") from error


def _parquet_batch(
    rows: list[dict[str, Any]], fields: list[list[str]], path: Path, first: int, bytes_per_row: float
) -> Batch:
    documents = [_join(row, fields, f"{path}, row {number}") for number, row in enumerate(rows, start=first)]
    return Batch(texts=documents, file_bytes=round(len(rows) * bytes_per_row))


def _join(row: Any, fields: list[list[str]], where: str) -> str:
    text = "\n".join(_lookup(row, field, where) for field in fields)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"{where}: the text holds half a surrogate pair at character {error.start}; mend it"
        ) from error
    return text


def _lookup(row: Any, field: list[str], where: str) -> str:
    value = row
    for key in field:
        if not isinstance(value, Mapping) or key not in value:
            raise CorpusError(_lacks(where, ".".join(field), value if isinstance(value, Mapping) else ()))
        value = value[key]
    if not isinstance(value, str):
        raise CorpusError(f"{where}: field '{'.'.join(field)}' is {type(value).__name__}, text expected")
    return value


def _lacks(where: str, field: str, present: Any) -> str:
    there = ", ".join(sorted(map(str, present))) or "none"
    return f"{where}: no field '{field}' (present: {there}); set text_field to one of them"
