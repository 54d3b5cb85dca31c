"""Documents as Parquet: the rows of MegaMath-Web-Pro-Max and, after them, where each came from.

One file per part, the same bytes whoever writes it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from megatron_octo import artifacts
from megatron_octo.curation.documents import NO_YEAR, groups, year_of
from megatron_octo.curation.parts import OURS
from megatron_octo.units import MIB

FOLDER = "data"
#: Of counts: documents whose metadata does not have a column's type.
UNFIT = "unfit_"
#: Columns taken from the metadata under their own names; `id` is that of the document first read.
COLUMNS = {
    "cc-path": pyarrow.string(), "domain": pyarrow.string(), "finemath_score": pyarrow.float64(), "lang": pyarrow.string(),
    "lang_score": pyarrow.float64(), "timestamp": pyarrow.string(), "url": pyarrow.string(), "math_score": pyarrow.float64(),
    # Lineage: the published rows end above.
    "refined": pyarrow.bool_(), "refiner": pyarrow.string(), "refined_chunks": pyarrow.int64(),
    "original_characters": pyarrow.int64(),
}  # fmt: skip
SCHEMA = pyarrow.schema(
    [
        pyarrow.field("text", pyarrow.string(), nullable=False),
        pyarrow.field("id", pyarrow.string(), nullable=False),
        *COLUMNS.items(),
        ("year", pyarrow.int64()),
    ]
)
#: Of a row group: memory while writing, and what a reader takes at a time.
GROUP_CHARACTERS = 32 * MIB
GROUP_ROWS = 50_000
#: Few texts that occur often.
REPEATED = ["domain", "lang", "refiner"]
LEVEL = 3


class Publish(PipelineStep):  # type: ignore[misc]
    """Last step: documents to `OUT/data/part-00003.parquet`, counted by year."""

    name = "published"
    type = OURS

    def __init__(self, stage: Path) -> None:
        super().__init__()
        self.stage = stage

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        file = file_of(self.stage, rank)
        file.parent.mkdir(exist_ok=True)
        # Least and greatest texts in the footer would make it as long as they are.
        with artifacts.appearing(file) as temporary, pyarrow.parquet.ParquetWriter(
            temporary, SCHEMA, compression="zstd", compression_level=LEVEL, use_dictionary=REPEATED,
            write_statistics=list(COLUMNS),
        ) as writer:  # fmt: skip
            for group in groups(data or (), characters=GROUP_CHARACTERS, most=GROUP_ROWS):
                rows = [row_of(document) for document in group]
                writer.write_batch(pyarrow.RecordBatch.from_pylist(rows, SCHEMA))
                for document, row in zip(group, rows, strict=True):
                    self._count(document, row)
                yield from group

    def _count(self, document: Document, row: Mapping[str, Any]) -> None:
        self.stat_update("documents", f"year_{year_of(document)}", *(f"{UNFIT}{name}" for name in unfit(document, row)))
        self.stat_update("characters", value=len(document.text))


def file_of(stage: Path, part: int) -> Path:
    """Where a part's rows are."""
    return stage / FOLDER / f"part-{part:05d}.parquet"


def row_of(document: Document) -> dict[str, Any]:
    """A document as a row; null where its metadata does not have the column's type (`unfit`)."""
    year = year_of(document)
    row = {name: _typed(document, name, kind) for name, kind in COLUMNS.items()}
    return {"text": document.text, "id": document.id, **row, "year": None if year == NO_YEAR else int(year)}


def unfit(document: Document, row: Mapping[str, Any]) -> list[str]:
    """Columns that are null although the document has something under their names.

    Not an error: it would come at the end of all steps, about what the raw rows said at the beginning.
    """
    return [name for name in COLUMNS if row[name] is None and document.metadata.get(name) not in (None, "")]


def _typed(document: Document, name: str, kind: Any) -> Any:
    value = document.metadata.get(name)
    if value is None or value == "":
        return None
    try:
        # Raw rows may spell numbers as text, and what is text here as a number or a date.
        return str(value) if kind == pyarrow.string() else pyarrow.scalar(value).cast(kind).as_py()
    except (pyarrow.ArrowException, OverflowError):
        return None
