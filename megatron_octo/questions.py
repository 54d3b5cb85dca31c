"""Questions with known answers, as RL prompts and evaluation sets hold them: JSONL of {"question", "answer"}."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_octo.errors import CorpusError


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question and its gold answer; `extra` is what else the line carried."""

    question: str
    #: Of a multiple choice, the letter.
    answer: str
    #: Options of a multiple choice, in the order of their letters, without them.
    choices: tuple[str, ...] = ()
    #: A worked solution, as few-shot examples show it.
    solution: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def read(file: Path) -> list[Question]:
    """All questions of a file. Raises `CorpusError` with file and line; a file without questions is an error too."""
    try:
        lines = file.read_text(encoding="utf-8").split("\n")  # not splitlines: U+2028 is text
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"cannot read the questions in {file}: {error}") from error
    questions = [_parse(line, f"{file}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not questions:
        raise CorpusError(f'{file} holds no questions; it needs lines of {{"question": ..., "answer": ...}}')
    return questions


def _parse(line: str, place: str) -> Question:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise CorpusError(f"{place} is not JSON: {error}") from error
    for key in ("question", "answer"):
        if not isinstance(row, dict) or not isinstance(row.get(key), str):
            raise CorpusError(
                f"{place} has no text field '{key}'; every line needs a question and an answer, as strings"
            )
    return Question(question=row.pop("question"), answer=row.pop("answer"), extra=row)
