"""A step that makes documents of a published data set's files, each part of its own share of them."""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from megatron_octo.curation.config import Published
from megatron_octo.curation.data_sets import hub, published
from megatron_octo.curation.data_sets.published import UnwantedError
from megatron_octo.curation.parts import OURS
from megatron_octo.curation.raw import inputs
from megatron_octo.curation.raw.rows import BadRow, rows
from megatron_octo.curation.raw.streams import DamagedError
from megatron_octo.errors import CorpusError
from megatron_octo.tokenization import sources


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of a data set."""

    #: On this machine, or in the data set on the hub.
    path: str
    #: In the ids of its documents.
    label: str
    bytes: int
    #: On the hub.
    data_set: str | None = None
    commit: str | None = None

    @contextlib.contextmanager
    def here(self) -> Iterator[Path]:
        """Where it is, or is for a while."""
        if self.data_set is None or self.commit is None:
            yield Path(self.path)
        else:
            with hub.fetched(self.data_set, self.commit, self.path) as file:
                yield file


def local_files(corpus: Published, named: Sequence[Path]) -> list[File]:
    """Files named outright, and of directories those that belong to the corpus, each once. Raises `CorpusError` where none does."""
    found = list({os.path.realpath(file): file for path in named for file in _below(corpus, path)}.values())
    return [
        File(path=str(file), label=label, bytes=file.stat().st_size)
        for file, label in zip(found, inputs.labels(found), strict=True)
    ]


def _below(corpus: Published, path: Path) -> list[Path]:
    found = inputs.resolve([path])
    wanted = [file for file in found if _belongs(corpus, file.absolute().as_posix())] if path.is_dir() else found
    if not wanted:
        raise CorpusError(
            f"none of the {len(found):,} files below {path} is of {corpus.value}, by its place in the data set (regular expression "
            f"{published.RECIPES[corpus].files}); name the files themselves if they have been renamed"
        )
    return wanted


def hub_files(corpus: Published) -> list[File]:
    """The corpus's files on the hub, as they are now."""
    return [file for data_set in published.RECIPES[corpus].hub for file in _of_data_set(corpus, data_set)]


def _of_data_set(corpus: Published, data_set: str) -> Iterator[File]:
    commit = hub.newest_commit(data_set)
    for path, size in hub.files(data_set, commit):
        is_data = sources.kind_of(Path(path)) is not None and Path(path).name not in sources.NOT_TEXT
        if is_data and _belongs(corpus, path):
            yield File(path=path, label=f"{data_set}/{path}", bytes=size, data_set=data_set, commit=commit)


def _belongs(corpus: Published, path: str) -> bool:
    pattern = published.RECIPES[corpus].files
    return pattern is None or re.search(pattern, path) is not None


class Import(PipelineStep):  # type: ignore[misc]
    """First step: the documents of each part's files; rows left out are counted by reason, as filters count."""

    name = "import"
    type = OURS

    def __init__(self, corpus: Published, shares: Sequence[Sequence[File]], limit: int | None) -> None:
        super().__init__()
        self.corpus = corpus
        self.shares = shares
        self.limit = limit

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for file, number, row in islice(_rows(self.shares[rank]), self.limit):
            self.stat_update("total")
            try:
                text = _text(self.corpus, row, f"{file.path}, row {number}")
            except UnwantedError as reason:
                self.stat_update("dropped", f"dropped_{reason}")
            else:
                self.stat_update("forwarded")
                yield Document(text=text, id=f"{self.corpus.value}/{file.label}/{number}")


def _rows(files: Sequence[File]) -> Iterator[tuple[File, int, dict[str, Any]]]:
    """Rows with their numbers in their files. Raises `CorpusError` at the first that is none: such files are not raw, but damaged."""
    for file in files:
        with file.here() as path:
            try:
                for number, row in rows(path):
                    if isinstance(row, BadRow):
                        raise CorpusError(
                            f"{file.path}, row {number}: {row.reason}; fetch the file again, or mend the row"
                        )
                    yield file, number, row
            except DamagedError as error:
                raise CorpusError(f"{file.path} is damaged ({error}); fetch it again") from error


def _text(corpus: Published, row: dict[str, Any], place: str) -> str:
    try:
        return published.text_of(published.RECIPES[corpus], row)
    except CorpusError as error:
        raise CorpusError(f"{place} {error}") from error
