import json
from pathlib import Path
from typing import Any

import pytest
import raw_corpora

from megatron_octo.curation.raw.rows import BadRow, lookup, rows, scalars
from megatron_octo.curation.raw.streams import DamagedError


def kept(file: Path) -> tuple[list[tuple[int, Any]], str]:
    found: list[tuple[int, Any]] = []
    try:
        found.extend(rows(file))
    except DamagedError as error:
        return found, str(error)
    return found, ""


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_every_form_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    table = [{"text": f"row {number}", "n": number} for number in range(2500)]
    assert kept(raw_corpora.write(tmp_path / name, table)) == (list(enumerate(table, start=1)), "")


def test_bad_lines_keep_their_numbers(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"text":"a"}\n\n{half\n["b"]\n{"text":"\xff"}\n{"text":"c"}')
    found, damage = kept(file)
    assert not damage
    assert [(number, isinstance(row, BadRow)) for number, row in found] == [
        (1, False),
        (3, True),
        (4, True),
        (5, True),
        (6, False),
    ]
    assert found[1][1].reason.startswith("not JSON")
    assert found[2][1] == BadRow(reason="a JSON list, not an object", raw='["b"]')


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_cut_file_gives_what_comes_before(tmp_path: Path, name: str) -> None:
    # Hexadecimal noise: zstd writes blocks of 128 kB and cannot make one of all.
    table = [{"text": hex(7**number)} for number in range(1, 1500)]
    file = raw_corpora.write(tmp_path / name, table)
    file.write_bytes(file.read_bytes()[:-100])
    found, damage = kept(file)
    assert damage
    assert (len(found) > 1000) is (name != "a.parquet")  # whose footer is gone
    assert all(row == table[number - 1] for number, row in found[:-1])


def test_several_members_are_one_file(tmp_path: Path) -> None:
    parts = [raw_corpora.write(tmp_path / f"{number}.jsonl.gz", [{"text": str(number)}]) for number in range(3)]
    whole = tmp_path / "whole.jsonl.gz"
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert [row["text"] for _, row in kept(whole)[0]] == ["0", "1", "2"]


def test_fields() -> None:
    row = {"a.b": 1, "c": {"d": "text"}, "list": [1], "none": None, "n": 0.5}
    assert lookup(row, "a.b") == 1
    assert lookup(row, "c.d") == "text"
    assert lookup(row, "c.d.e") is None
    assert lookup(row, "x") is None
    assert scalars(row, without="n") == {"a.b": 1}
    assert json.dumps(scalars(row, without="")) == '{"a.b": 1, "n": 0.5}'
