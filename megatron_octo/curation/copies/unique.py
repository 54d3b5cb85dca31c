"""Filters that drop copies of other documents and documents that hold questions of benchmarks."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import orjson
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.filters.base_filter import BaseFilter

from megatron_octo.curation import documents
from megatron_octo.curation.copies.signatures import BATCH_CHARACTERS
from megatron_octo.curation.parts import OURS
from megatron_octo.errors import CorpusError
from megatron_octo.ngrams import Index

#: Under which a dropped document's metadata say of which document it is a copy, and which questions it holds.
DUPLICATE_OF, QUESTIONS = "duplicate_of", "benchmark_questions"


class Duplicates(BaseFilter):  # type: ignore[misc]
    """Drops copies: `exact_duplicate`, `near_duplicate`."""

    name = "duplicates"
    type = OURS

    def __init__(self, copies: Path, out: Path) -> None:
        """Args: copies: folder with a file per part (duplicates_run.py)."""
        super().__init__(exclusion_writer=documents.rejects(out, self.name))
        self.copies = copies

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        return super().run(self._marked(data, self.copies / f"{rank:05d}.jsonl"), rank, world_size)

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        copy = doc.metadata.get(DUPLICATE_OF)
        return copy is None or (False, "exact_duplicate" if copy["exact"] else "near_duplicate")

    def _marked(self, data: DocumentsPipeline, file: Path) -> Iterator[Document]:
        copies = _read_copies(file)
        for ordinal, document in enumerate(data):
            document.metadata.pop(DUPLICATE_OF, None)
            if copy := copies.pop(ordinal, None):
                _require_same(document, copy, file)
                document.metadata[DUPLICATE_OF] = {key: copy[key] for key in ("of", "part", "exact")}
            yield document
        if copies:
            raise CorpusError(f"{file} names more documents than its part has; {_AGAIN}")


_AGAIN = "run the stages signatures and duplicates again, on these documents"


def _read_copies(file: Path) -> dict[int, dict[str, Any]]:
    try:
        rows = [orjson.loads(line) for line in file.read_bytes().splitlines()]
        return {row["ordinal"]: row for row in rows}
    except (OSError, ValueError, KeyError) as error:
        raise CorpusError(f"{file} is missing or damaged ({error!r}); {_AGAIN}") from error


def _require_same(document: Document, copy: Mapping[str, Any], file: Path) -> None:
    if document.id != copy["id"]:
        raise CorpusError(
            f"document {copy['ordinal']} is '{document.id}', and '{copy['id']}' in {file}: duplicates were looked for in other "
            f"documents; {_AGAIN}"
        )


class Benchmarks(BaseFilter):  # type: ignore[misc]
    """Drops documents that hold a question, as `benchmark_<name>` of the first benchmark it belongs to."""

    name = "benchmarks"
    type = OURS

    def __init__(self, asked: Mapping[str, Sequence[str]], *, ngram: int, out: Path) -> None:
        """Args: asked: the questions of each benchmark."""
        super().__init__(exclusion_writer=documents.rejects(out, self.name))
        self.asked = asked
        self.ngram = ngram

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        return super().run(self._marked(data), rank, world_size)

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        held = doc.metadata.get(QUESTIONS)
        return held is None or (False, reason_of(held[0]["benchmark"]))

    def _marked(self, data: DocumentsPipeline) -> Iterator[Document]:
        of_questions = [(name, question) for name, questions in self.asked.items() for question in questions]
        index = Index([question for _, question in of_questions], ngram=self.ngram)
        for batch in documents.groups(data, characters=BATCH_CHARACTERS):
            for document in batch:
                document.metadata.pop(QUESTIONS, None)
            for match in index.find([document.text for document in batch]):
                name, question = of_questions[match.question]
                held = {"benchmark": name, "question": question, "shared": match.text}
                batch[match.document].metadata.setdefault(QUESTIONS, []).append(held)
            yield from batch


def reason_of(benchmark: str) -> str:
    return f"benchmark_{benchmark}"


def too_short(asked: Mapping[str, Sequence[str]], *, ngram: int) -> int:
    """Questions that tell nothing, since they have too few words, and are not looked for."""
    return len(Index([*chain(*asked.values())], ngram=ngram).too_short)
