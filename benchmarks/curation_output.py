"""Published rows to documents and documents to Parquet: `megatron_octo.curation` beside datatrove's own reader and writer.

    python benchmarks/curation_output.py --documents 50000

Documents and MB of text a second on one core, each contender's turns one after the other, the least CPU time counts. Documents are the
standard library's manual, 2.6 kB each. datatrove's reader parses and gives the rows; ours formats and checks them as well. Its writer
lets pyarrow guess the types of each file's metadata, ours writes the published schema. Prints Markdown.
"""

import argparse
import json
import pydoc_data.topics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import ParquetWriter
from loguru import logger

from megatron_octo.curation.config import Published
from megatron_octo.curation.data_sets import importing
from megatron_octo.curation.data_sets.importing import Import
from megatron_octo.curation.data_sets.publishing import Publish

TURNS = 3
DOCUMENT_CHARACTERS = 2_600
METADATA = {
    "url": "https://a.example/sums", "timestamp": "2019-03-18T10:00:00Z", "cc-path": "CC-MAIN-2019-13/a.warc.gz", "lang": "en",
    "lang_score": 0.97, "finemath_score": 0.58, "math_score": 0.91, "refined": True, "original_characters": 3_000,
}  # fmt: skip

Work = Callable[[Path], Iterable[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=50_000)
    num_documents: int = parser.parse_args().documents
    logger.remove()
    with tempfile.TemporaryDirectory() as scratch:
        rows = Path(scratch) / "rows.jsonl"
        rows.write_text(
            "".join(json.dumps({"problem": "?", "generated_solution": text}) + "\n" for text in texts(num_documents))
        )
        print("| | documents/s | MB/s |\n| --- | ---: | ---: |")
        for name, work in contenders(rows, num_documents).items():
            seconds = min(timed(work, Path(scratch)) for _ in range(TURNS))
            mb = num_documents * DOCUMENT_CHARACTERS / 1e6
            print(f"| {name} | {num_documents / seconds:,.0f} | {mb / seconds:,.0f} |", flush=True)


def contenders(rows: Path, num_documents: int) -> dict[str, Work]:
    files = importing.local_files(Published.OPENMATHINSTRUCT2, [rows])
    return {
        "read JSONL: datatrove": lambda _: JsonlReader(str(rows.parent), text_key="generated_solution", glob_pattern=rows.name).run(),
        "read and format JSONL: ours": lambda _: Import(Published.OPENMATHINSTRUCT2, [files], None).run(None),
        "write Parquet: datatrove": lambda out: written(ParquetWriter(str(out / "theirs")), num_documents),
        "write Parquet: ours": lambda out: Publish(out).run(documents(num_documents)),
    }  # fmt: skip


def written(writer: Any, num_documents: int) -> Iterator[Any]:
    with writer:
        yield from writer.run(documents(num_documents))


def texts(count: int) -> Iterator[str]:
    manual = "\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))
    for number in range(count):
        start = number * 997 % (len(manual) - DOCUMENT_CHARACTERS)
        yield manual[start : start + DOCUMENT_CHARACTERS]


def documents(count: int) -> Iterator[Document]:
    for number, text in enumerate(texts(count)):
        yield Document(text=text, id=f"a/{number}", metadata=dict(METADATA))


def timed(work: Work, scratch: Path) -> float:
    """Seconds of CPU."""
    started = time.process_time()
    deque(work(scratch), maxlen=0)
    return time.process_time() - started


if __name__ == "__main__":
    main()
