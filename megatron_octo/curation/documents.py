"""Documents between two steps: `STAGE/documents/00003.jsonl.zst` holds part 3, one `{"id", "text", "metadata"}` per line.

A part has a file even where it has no documents, and the file appears when it is complete. Rejects lie beside, by the step that
dropped them, with `metadata.filter_reason`: `STAGE/rejects/<step>/00003.jsonl.zst`.

What later steps know about a document is in its metadata, under the names of MegaMath-Web-Pro-Max's rows where it has them: `url`,
`timestamp`, `cc-path`, `domain`, `lang`, `lang_score`, `math_score`, `finemath_score`; `year` is derived (`year_of`).
"""

import contextlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import zstandard
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from megatron_octo import artifacts
from megatron_octo.curation.parts import OURS
from megatron_octo.curation.raw.inputs import DUMP
from megatron_octo.errors import ConfigError, CorpusError

FOLDER = "documents"
REJECTS = "rejects"
#: Of documents whose metadata tells no year.
NO_YEAR = "unknown"
#: 0.3 TB should not cost much to write; higher levels save a tenth at several times the time (guess).
LEVEL = 3
_DATE = re.compile(r"(20\d\d|19\d\d)\b")


def file_of(stage: Path, part: int) -> Path:
    """Where a part's documents are."""
    return stage / FOLDER / f"{part:05d}.jsonl.zst"


def year_of(document: Document) -> str:
    """`2019` of a Common Crawl dump named in the metadata or id, else of a timestamp; `NO_YEAR` where none is told."""
    metadata = document.metadata
    for place in (metadata.get("dump"), metadata.get("cc-path"), metadata.get("cc_path"), document.id):
        if found := DUMP.search(str(place or "")):
            return found[1]
    for place in (metadata.get("year"), metadata.get("timestamp"), metadata.get("date")):
        if found := _DATE.match(str(place or "")):
            return found[1]
    return NO_YEAR


def read(stage: Path, part: int) -> Iterator[Document]:
    """The documents of one part, in their order. Raises `CorpusError` where its file is missing or damaged."""
    file = file_of(stage, part)
    try:
        with file.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
            for line in io.BufferedReader(stream, 1 << 20):
                row = orjson.loads(line)
                yield Document(text=row["text"], id=row["id"], metadata=row["metadata"])
    except FileNotFoundError as error:
        raise CorpusError(f"{file} is missing; run the step that makes it again, with as many parts") from error
    except (OSError, ValueError, zstandard.ZstdError, KeyError) as error:
        raise CorpusError(f"{file} is damaged ({error}); run the step that makes it again") from error


def require_parts(stage: Path, parts: int) -> None:
    """Raises `ConfigError` where a finished stage has another number of parts than the step that reads it asks for."""
    found = artifacts.finished(stage)["config"].get("parts")
    if found != parts:
        raise ConfigError(
            f"the documents in {stage} lie in {found} parts, and parts={parts} are asked for; give parts={found}"
        )


def groups(found: Iterable[Document], *, characters: int, most: int | None = None) -> Iterator[list[Document]]:
    """Documents in runs of about so many characters, and of `most` documents."""
    group: list[Document] = []
    size = 0
    for document in found:
        group.append(document)
        size += len(document.text)
        if size >= characters or len(group) == most:
            yield group
            group, size = [], 0
    if group:
        yield group


class Read(PipelineStep):  # type: ignore[misc]
    """First step: the documents of a finished stage, part by part."""

    name = "read"
    type = OURS

    def __init__(self, stage: Path) -> None:
        super().__init__()
        self.stage = stage

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for document in read(self.stage, rank):
            self.stat_update("documents")
            yield document


class Write(PipelineStep):  # type: ignore[misc]
    """Last step: documents to `OUT/documents`, counted by year."""

    name = "kept"
    type = OURS

    def __init__(self, stage: Path) -> None:
        super().__init__()
        self.stage = stage

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        file = file_of(self.stage, rank)
        file.parent.mkdir(exist_ok=True)
        with (
            artifacts.appearing(file) as temporary,
            temporary.open("wb") as raw,
            zstandard.ZstdCompressor(level=LEVEL).stream_writer(raw) as stream,
        ):
            for document in data or ():
                stream.write(line_of(document.id, document.text, document.metadata))
                self.stat_update("documents", f"year_{year_of(document)}")
                self.stat_update("characters", value=len(document.text))
                yield document


def line_of(identity: str, text: str, metadata: Mapping[str, Any]) -> bytes:
    """One document as a line."""
    row = {"id": identity, "text": text, "metadata": metadata}
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY, default=str)


class Rejects:
    """Where a filter leaves what it drops, for people to read; datatrove's filters open it for every part.

    datatrove's own writer takes 100 microseconds a document, twice what reading and scoring it take (benchmarks/curation_classifier.py).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open = contextlib.ExitStack()
        self._stream: Any = None

    def __enter__(self) -> "Rejects":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        self._stream = None

    def write(self, document: Document, rank: int = 0) -> None:
        if self._stream is None:  # a part that drops nothing leaves no file
            self._folder.mkdir(parents=True, exist_ok=True)
            raw = self._open.enter_context((self._folder / f"{rank:05d}.jsonl.zst").open("wb"))
            self._stream = self._open.enter_context(zstandard.ZstdCompressor(level=LEVEL).stream_writer(raw))
        self._stream.write(line_of(document.id, document.text, document.metadata))


def rejects(stage: Path, step: str) -> Rejects:
    """Where a filter of this name leaves what it drops."""
    return Rejects(stage / REJECTS / step)
