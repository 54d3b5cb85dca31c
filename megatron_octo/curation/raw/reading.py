"""The first step of curation: the raw files of a part to documents, in the order of files and rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from megatron_octo.curation.documents import Rejects
from megatron_octo.curation.parts import OURS
from megatron_octo.curation.raw import archives, inputs, rows
from megatron_octo.curation.raw.rows import BadRow
from megatron_octo.curation.raw.streams import DamagedError
from megatron_octo.errors import CorpusError

BAD_ROW, NOT_HTML, DAMAGED = "bad_row", "not_html", "damaged_file"
#: Of the metadata; datatrove's filters add it up, and fail where it is text.
ADDED_UP = "token_count"


class Page(Document):  # type: ignore[misc]
    """A document whose text is still HTML."""


class Reject(Document):  # type: ignore[misc]
    """What gave no document. A class, since rows may have a `filter_reason` of their own."""


@dataclass(frozen=True, kw_only=True)
class RawFile:
    path: Path
    #: In ids: `<label>/<row>`.
    label: str


class ReadRaw(PipelineStep):  # type: ignore[misc]
    """Rows and web pages as documents. Rows that give no text, and where a damaged file stops, are kept aside with file and line.

    Args:
        files: of each part.
        is_html: rows hold HTML; archives always do.
    """

    name = "rows"
    type = OURS

    def __init__(
        self,
        files: Sequence[Sequence[RawFile]],
        *,
        text_field: str,
        id_field: str | None,
        is_html: bool,
        rejects: Rejects,
    ) -> None:
        super().__init__()
        self.files = files
        self.text_field, self.id_field, self.is_html = text_field, id_field, is_html
        self.rejects = rejects

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        with self.rejects as aside:
            for file in self.files[rank]:
                self.stat_update("files")
                for found in self._documents(file):
                    if isinstance(found, Reject):
                        aside.write(found, rank)
                    else:
                        self.stat_update("total", "forwarded")
                        yield found

    def _documents(self, file: RawFile) -> Iterator[Document]:
        """Those, and rejects. Raises `CorpusError` where the disk fails."""
        try:
            yield from self._pages(file) if inputs.is_archive(file.path) else self._rows(file)
        except DamagedError as error:
            self.stat_update("damaged_files")
            yield _reject(DAMAGED, file, f"{error}; what came before is kept", raw="", place=file.label)
        except OSError as error:
            raise CorpusError(
                f"reading {file.path} fails ({error.strerror}); run the same command again when the disk is well, what is made stays"
            ) from error

    def _pages(self, file: RawFile) -> Iterator[Document]:
        for number, page in enumerate(archives.pages(file.path), start=1):
            if page is None:
                self._count_dropped(NOT_HTML)
                continue
            metadata = {"url": page.url, "timestamp": page.timestamp}
            yield Page(
                text=page.html, id=page.record or f"{file.label}/{number}", metadata=_completed(metadata, file.path)
            )

    def _rows(self, file: RawFile) -> Iterator[Document]:
        for number, row in rows.rows(file.path):
            found = row if isinstance(row, BadRow) else self._document(row, f"{file.label}/{number}", file.path)
            if isinstance(found, BadRow):
                self._count_dropped(BAD_ROW)
                found = _reject(BAD_ROW, file, found.reason, raw=found.raw, place=f"{file.label}:{number}")
            yield found

    def _count_dropped(self, reason: str) -> None:
        """As datatrove's filters count."""
        self.stat_update("total", "dropped", f"dropped_{reason}")

    def _document(self, row: dict[str, Any], otherwise: str, path: Path) -> Document | BadRow:
        text = rows.lookup(row, self.text_field)
        if not isinstance(text, str) or not text.strip():
            return rows.bad(_lacking(self.text_field, text, row), row)
        identity = otherwise if self.id_field is None else rows.lookup(row, self.id_field)
        if identity is None or identity == "":
            return rows.bad(f"no '{self.id_field}'; set id_field to one of {', '.join(row)}, or leave it out", row)
        metadata = _completed(rows.scalars(row, without=self.text_field), path)
        if not isinstance(metadata.get(ADDED_UP, 0), int | float):
            del metadata[ADDED_UP]
        return (Page if self.is_html else Document)(text=text, id=str(identity), metadata=metadata)


def _lacking(field: str, found: object, row: dict[str, Any]) -> str:
    if isinstance(found, str):
        return f"'{field}' is empty"
    if found is not None:
        return f"'{field}' is {type(found).__name__}, not text"
    return f"no '{field}' (present: {', '.join(row) or 'none'})"


def _reject(reason: str, file: RawFile, why: str, *, raw: str, place: str) -> Reject:
    # JSONL writers leave empty texts out.
    metadata = {"filter_reason": reason, "why": why, "file": str(file.path)}
    return Reject(text=raw, id=place, metadata=metadata)


def _completed(metadata: dict[str, Any], path: Path) -> dict[str, Any]:
    """With what the file's path and the URL tell, under MegaMath's names, where the row does not say it itself."""
    derived = {
        "dump": inputs.dump_of(path),
        "cc-path": inputs.path_in_crawl(path) if inputs.is_archive(path) else None,
        "domain": _domain(metadata.get("url")),
    }
    return metadata | {key: value for key, value in derived.items() if value and key not in metadata}


def _domain(url: object) -> str | None:
    try:
        return urlsplit(url).hostname if isinstance(url, str) else None
    except ValueError:  # such as an open bracket
        return None
