"""The stand-in for a language model in the test's own process: it counts every answer it has delivered, and can fall silent."""

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Iterator

import model_api
from model_api import Api

from megatron_octo.curation.language_model import stand_in


class ChatServer:
    """`delivered` counts the answers of each question (the request as it came) that left in full."""

    def __init__(self) -> None:
        self.delivered: Counter[str] = Counter()
        self.url = ""
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._open.set()

    @contextlib.contextmanager
    def running(self) -> Iterator["ChatServer"]:
        class Handler(_Handler):
            chat = self

        with model_api.serving(Handler) as self.url:
            yield self

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """No more answers leave meanwhile; those that were to leave are not delivered."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    def may_answer(self) -> bool:
        """Now, without waiting: whoever is held is cut off."""
        return self._open.is_set()

    def note(self, question: str) -> None:
        with self._lock:
            self.delivered[question] += 1


class _Handler(Api):
    chat: ChatServer
    model = stand_in.MODEL

    def do_POST(self) -> None:
        asked = self.read()
        answer = stand_in.completion(asked)
        if not self.chat.may_answer():
            self.close_connection = True
            return
        self.send(200, answer)
        self.chat.note(json.dumps(asked, sort_keys=True))
