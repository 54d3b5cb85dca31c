"""Documents rewritten by a language model, chunk by chunk; every answer is looked at before it counts (guards.py).

A chunk is asked again while its answer is a refusal, cut, out of bounds or in another language, `model.attempts` times in all. A
document fails with its first chunk that cannot be used, or as a whole by its length and language: a chunk of nothing but noise may
shrink to a line. Answers are kept by `asking.each`, so a part that is begun anew repeats its decisions and pays for nothing twice.
"""

from dataclasses import dataclass
from pathlib import Path

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from megatron_octo.curation import documents
from megatron_octo.curation.config import Refinement
from megatron_octo.curation.language_model import asking, prompts
from megatron_octo.curation.language_model.answers import Answer
from megatron_octo.curation.language_model.asking import Ask, Refused
from megatron_octo.curation.languages import Identifier
from megatron_octo.curation.parts import OURS
from megatron_octo.curation.refinement import guards
from megatron_octo.curation.refinement.chunks import cut
from megatron_octo.servers import Server

NAME = "refined"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A chunk after its last answer."""

    text: str
    #: Why the text cannot be used.
    fault: str | None
    answers: tuple[Answer, ...]


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """What became of a document. After a chunk that cannot be used no further one was asked."""

    document: Document
    pieces: tuple[Piece, ...]
    text: str
    #: Why the document fails.
    fault: str | None


class Rewriter:
    """Prompt, guards and the language model's patience."""

    def __init__(self, config: Refinement, prompt: str) -> None:
        self._config, self._prompt = config, prompt
        self._instructions = guards.telling_lines(prompt)
        self._identifier = None if config.language is None else Identifier(config.language.model)

    async def rewrite(self, ask: Ask, document: Document) -> Rewritten:
        """Ask for all chunks of a document, one after the other: others are under way meanwhile."""
        pieces: list[Piece] = []
        for chunk in cut(document.text, self._config.max_characters):
            if chunk.strip():
                pieces.append(await self._piece(ask, chunk.strip()))
                if pieces[-1].fault:
                    break
        text = "\n\n".join(piece.text for piece in pieces)
        fault = pieces[-1].fault if pieces else "empty"
        return Rewritten(
            document=document, pieces=tuple(pieces), text=text, fault=fault or self._out_of_bounds(text, document.text)
        )

    async def _piece(self, ask: Ask, chunk: str) -> Piece:
        prompt = prompts.fill(self._prompt, chunk)
        answers: list[Answer] = []
        text = ""
        fault: str | None = "empty"
        for attempt in range(self._config.model.attempts):
            try:
                answer = await ask(prompt, max_new_tokens=self._config.max_new_tokens, attempt=attempt)
            except Refused:  # for what it holds, such as more tokens than the model takes: the same next time
                fault = fault and "refused_by_server"
                break
            answers.append(answer)
            found, found_fault = self._read(answer, chunk)
            if fault or not found_fault:  # a text that was only out of bounds is better than one that cannot be used
                text, fault = found, found_fault
            if not found_fault and not self._out_of_bounds(found, chunk):
                break
        return Piece(text=text, fault=fault, answers=tuple(answers))

    def _read(self, answer: Answer, chunk: str) -> tuple[str, str | None]:
        """The text of an answer, and why it cannot be used."""
        text = guards.unwrapped(answer.text, chunk)
        return text, guards.unusable(text, chunk, self._instructions) if answer.finished else "cut"

    def _out_of_bounds(self, text: str, original: str) -> str | None:
        bounds, language = self._config, self._config.language
        if fault := guards.length_fault(
            text, original, min_ratio=bounds.min_length_ratio, max_ratio=bounds.max_length_ratio
        ):
            return fault
        if language is None or self._identifier is None:
            return None
        told, score = self._identifier.identify(text)
        # What is hardly more than formulas is told as anything, with low scores: only another language that is told surely counts.
        return "language" if told != language.language and score >= language.min_score else None


# As a step ------------------------------------------------------------------------------------------------------------


class Refine(PipelineStep):  # type: ignore[misc]
    """Rewritten documents in the order of the originals; what fails is dropped, or kept as it was, with a reason."""

    name = NAME
    type = OURS

    def __init__(self, config: Refinement, server: Server, *, prompt: str, answers: Path, stage: Path) -> None:
        """`prompt` has `{text}` in it, `answers` is the folder of what the model has said before."""
        super().__init__()
        self._config, self._server, self._prompt, self._answers = config, server, prompt, answers
        self._rejects = documents.rejects(stage, NAME)

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        rewriter = Rewriter(self._config, self._prompt)
        made = asking.each(
            data or (), rewriter.rewrite,
            model=self._config.model, server=self._server, cache=self._answers / f"{rank:05d}.jsonl",
        )  # fmt: skip
        with self._rejects as rejects:
            for each in made:
                self._count(each)
                if each.fault is None:
                    yield refined(each, refiner=self._server.model)
                elif self._config.keep_failed:
                    yield kept(each)
                else:
                    rejects.write(rejected(each), rank)

    def _count(self, made: Rewritten) -> None:
        answers = [answer for piece in made.pieces for answer in piece.answers]
        self.stat_update("total")
        self.stat_update("chunks", value=len(made.pieces))
        self.stat_update("answers", value=len(answers))
        self.stat_update("prompt_tokens", value=sum(answer.prompt_tokens for answer in answers))
        self.stat_update("answer_tokens", value=sum(answer.answer_tokens for answer in answers))
        if made.fault is not None:
            how = "unrefined" if self._config.keep_failed else "dropped"
            self.stat_update(how, f"{how}_{made.fault}")
            return
        self.stat_update("forwarded")
        self.stat_update("copied", value=int(guards.is_copy(made.text, made.document.text)))
        numbers = guards.numbers(made.document.text)
        self.stat_update("numbers", value=len(numbers))
        self.stat_update("numbers_kept", value=len(numbers & guards.numbers(made.text)))


def refined(made: Rewritten, *, refiner: str) -> Document:
    """The document with its new text."""
    original = made.document
    lineage = {
        "refined": True,
        "refiner": refiner,
        "original_characters": len(original.text),
        "refined_chunks": len(made.pieces),
    }
    return Document(text=made.text, id=original.id, metadata=original.metadata | lineage)


def kept(made: Rewritten) -> Document:
    """The document as it was, and why."""
    original = made.document
    lineage = {"refined": False, "refinement_fault": made.fault}
    return Document(text=original.text, id=original.id, metadata=original.metadata | lineage)


def rejected(made: Rewritten) -> Document:
    """The document as it was, why it fails, and the last answer for each chunk that was asked."""
    original = made.document
    said = [piece.answers[-1].text for piece in made.pieces if piece.answers]
    return Document(
        text=original.text, id=original.id, metadata=original.metadata | {"filter_reason": made.fault, "answers": said}
    )
