"""JSON lines that one process appends and another may read, or that a kill may have cut short."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


def append(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One write for all rows, so that lines of two processes do not mix."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with file.open("a", encoding="utf-8") as stream:
        stream.write(text)


def read(file: Path) -> Iterator[dict[str, Any]]:
    """All whole rows up to the first that a kill has cut; none where there is no file."""
    if not file.exists():
        return
    for line in file.read_text(encoding="utf-8").split("\n")[:-1]:  # not splitlines: U+2028 is text
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def replace(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a file anew; a reader, or a kill, sees the old rows or these."""
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.unlink(missing_ok=True)
    append(temporary, rows)
    os.replace(temporary, file)
