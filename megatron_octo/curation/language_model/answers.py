"""Answers of a language model on disk: each is written once, before it is used, and survives a kill.

One file per part, `{"key", "text", "finished", "prompt_tokens", "answer_tokens"}` per line. In memory is where each of them lies, some
250 bytes per answer; a million answers of a part are 250 MB.
"""

import contextlib
import errno
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_octo import artifacts
from megatron_octo.errors import ArtifactError

#: For the process of a killed stage, which ends soon after it, to leave the file.
LEAVE_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Question:
    """All that decides an answer."""

    model: str
    prompt: str
    max_new_tokens: int
    temperature: float
    seed: int
    attempt: int

    def key(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model said."""

    text: str
    #: False where max_new_tokens cut it.
    finished: bool
    prompt_tokens: int
    answer_tokens: int


class Answers:
    """The answers of one file, which belongs to this process while it is open."""

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        self._places: dict[bytes, tuple[int, int]] = {}
        #: Of all of them, prompts and answers.
        self.tokens = 0
        self._end = 0
        for line in _whole_lines(file):
            self._note(line)
        # What a kill has cut would spoil the next line.
        os.ftruncate(self._descriptor, self._end)

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: str) -> Answer | None:
        """The answer to the question with this key; None where there is none yet."""
        place = self._places.get(bytes.fromhex(key))
        if place is None:
            return None
        start, length = place
        row = json.loads(os.pread(self._descriptor, length, start))
        del row["key"]
        return Answer(**row)

    def add(self, key: str, answer: Answer) -> None:
        """Raises `OSError` where the disk does not take it; then it counts as not given."""
        # Unpaired surrogates, which UTF-8 has no bytes for, stay escaped.
        line = json.dumps({"key": key, **asdict(answer)}).encode() + b"\n"
        if os.write(self._descriptor, line) < len(line):
            os.ftruncate(self._descriptor, self._end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._note(line)

    def close(self) -> None:
        os.close(self._descriptor)

    def _note(self, line: bytes) -> None:
        if (row := _parsed(line)) is not None:
            self._places.setdefault(bytes.fromhex(row["key"]), (self._end, len(line)))
            self.tokens += row["prompt_tokens"] + row["answer_tokens"]
        self._end += len(line)


@contextlib.contextmanager
def opened(file: Path) -> Iterator[Answers]:
    """The answers of earlier tries, and room for more. Raises `ArtifactError` where another process is at work on them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as closing:
        _wait_for(closing, lock_of(file))
        answers = Answers(file)
        closing.callback(answers.close)
        yield answers


def lock_of(file: Path) -> Path:
    """Locked by the process that has these answers open."""
    return file.with_name(f".{file.name}.lock")


def tokens_in(file: Path) -> int:
    """What the answers of a file cost, prompts and answers."""
    rows = (row for line in _whole_lines(file) if (row := _parsed(line)) is not None)
    return sum(row["prompt_tokens"] + row["answer_tokens"] for row in rows)


def _wait_for(closing: contextlib.ExitStack, lock: Path) -> None:
    deadline = time.monotonic() + LEAVE_SECONDS
    while True:
        try:
            closing.enter_context(artifacts.alone(lock, shared=False))
        except ArtifactError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def _whole_lines(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        yield from (line for line in stream if line.endswith(b"\n"))


def _parsed(line: bytes) -> dict[str, Any] | None:
    """None for what a power cut has made of a line: its question is asked again."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "key" in row else None
