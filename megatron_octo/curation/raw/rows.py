"""Rows of JSONL and Parquet files, one by one with their numbers; those that give no text with the reason.

datatrove's readers leave out lines that are no JSON and texts that are empty with a line in a log (0.10.1); here they are kept aside.
"""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import orjson
import pyarrow
import pyarrow.parquet

from megatron_octo.curation.raw.streams import DamagedError, Stream, reason
from megatron_octo.tokenization.sources import Kind, kind_of

UTF8_MARK = b"\xef\xbb\xbf"
#: Of a bad row, what is kept.
RAW_CHARACTERS = 1_000
#: Of a Parquet file in memory at a time; datatrove's.
BATCH_ROWS = 1_000
SCALARS = (str, int, float, date)


@dataclass(frozen=True, kw_only=True)
class BadRow:
    reason: str
    #: Its beginning.
    raw: str


def rows(file: Path) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """Rows with their numbers, from 1: of lines in a JSONL file, blank ones counted and passed over.

    Raises `DamagedError` where the rest of the file cannot be read.
    """
    return _of_table(file) if kind_of(file) is Kind.PARQUET else _of_lines(file)


def lookup(row: Mapping[str, Any], field: str) -> Any:
    """A row's value by name or dotted path; None where there is none."""
    if field in row:
        return row[field]
    value: Any = row
    for key in field.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def scalars(row: Mapping[str, Any], without: str) -> dict[str, Any]:
    """A row's fields but one that are text, numbers, dates; lists and tables in it are no metadata, but for `metadata` itself, where
    datatrove's JSONL, and so the documents of our own steps, has these fields."""
    nested = row.get("metadata")
    fields = {**(nested if isinstance(nested, Mapping) else {}), **row}
    return {key: value for key, value in fields.items() if key != without and isinstance(value, SCALARS)}


def bad(reason: str, row: Mapping[str, Any]) -> BadRow:
    return BadRow(reason=reason, raw=json.dumps(row, ensure_ascii=False, default=str)[:RAW_CHARACTERS])


def _of_lines(file: Path) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    with Stream(file) as raw, io.BufferedReader(raw, 1 << 20) as lines:
        for number, line in enumerate(lines, start=1):
            if text := line.removeprefix(UTF8_MARK if number == 1 else b"").strip():
                yield number, _parsed(text)


def _parsed(line: bytes) -> dict[str, Any] | BadRow:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return BadRow(reason=f"not JSON: {error}", raw=_beginning(line))
    if not isinstance(row, dict):
        return BadRow(reason=f"a JSON {type(row).__name__}, not an object", raw=_beginning(line))
    return row


def _beginning(line: bytes) -> str:
    return line[:RAW_CHARACTERS].decode(errors="replace")


def _of_table(file: Path) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file, pre_buffer=False) as table:
            for batch in table.iter_batches(BATCH_ROWS, use_threads=False):
                for row in _rows_of(batch):
                    number += 1
                    yield number, row
    except (OSError, ValueError) as error:
        raise DamagedError(reason(error)) from error


def _rows_of(batch: Any) -> list[dict[str, Any] | BadRow]:
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        return [_row_of(batch.slice(index, 1)) for index in range(batch.num_rows)]


def _row_of(batch: Any) -> dict[str, Any] | BadRow:
    try:
        row: dict[str, Any] = batch.to_pylist()[0]
    except UnicodeDecodeError as error:
        return BadRow(reason=f"not UTF-8: {error.reason} at byte {error.start}", raw="")
    return row
