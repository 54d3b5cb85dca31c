"""Files of JSON lines by step (jsonl.py reads and writes them): without later steps, or followed as they grow."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_octo import jsonl


def forget_after(file: Path, step: int | None) -> list[dict[str, Any]]:
    """Drop the rows of later steps, all where there is no step, and a last one that a kill cut. Returns those that stay."""
    kept = [row for row in jsonl.read(file) if step is not None and row["step"] <= step]
    if file.exists():
        jsonl.replace(file, kept)
    return kept


class Growing:
    """A file that another process appends to."""

    def __init__(self, file: Path) -> None:
        self._file = file
        #: Bytes of the rows that were handed out.
        self._read = 0

    def new_rows(self) -> Iterator[dict[str, Any]]:
        """Rows that became whole since the last call."""
        with self._file.open("rb") as stream:
            stream.seek(self._read)
            for line in stream:
                if line.endswith(b"\n"):
                    self._read += len(line)
                    yield json.loads(line)
