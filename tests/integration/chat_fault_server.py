"""A chat server that echoes prompts, or treats a share of the requests badly, and knows what it has delivered."""

import contextlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import model_api
from model_api import Api

MODEL = "echo"
#: Longer than the client's patience in these tests.
HANG_SECONDS = 6.0
STATUSES = {"429": 429, "500": 500, "503": 503}
GARBAGE = {
    "web page": b"<html>502 Bad Gateway</html>",
    "no choices": b'{"object": "chat.completion", "choices": []}',
    "no usage": b'{"choices": [{"message": {"content": "?"}, "finish_reason": "stop"}]}',
    "no text": b'{"choices": [{"message": "?", "finish_reason": "stop"}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}',
    "text in parts": b'{"choices": [{"message": {"content": [1]}, "finish_reason": "stop"}], "usage": {}}',
    "number": b"7",
}
FAULTS = ("hang", "cut", "cut body", "truncated", *STATUSES, *GARBAGE)


class ChatFaultServer:
    """Answers `echo: <prompt>`; prompts beginning with `too long` are refused with 400."""

    def __init__(self, *, share: float = 0.0, seed: int = 0, seconds: float = 0.0, status: int = 200) -> None:
        """
        Args:
            share: of requests that meet with a fault.
            seconds: an answer takes.
            status: of every response, instead of an answer.
        """
        self.share, self.seconds, self.status = share, seconds, status
        self.faults: Counter[str] = Counter()
        #: Prompts by how often they were asked, and how often an answer left in whole.
        self.asked: Counter[str] = Counter()
        self.delivered: Counter[str] = Counter()
        self.requests: list[dict[str, Any]] = []
        self.url = ""
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def running(self) -> Iterator["ChatFaultServer"]:
        class Handler(_Handler):
            faulty = self

        with model_api.serving(Handler) as self.url:
            yield self

    def arrived(self, request: dict[str, Any]) -> str | None:
        """Notes a request and says what is to go wrong with it."""
        with self._lock:
            self.requests.append(request)
            self.asked[request["messages"][0]["content"]] += 1
            fault = self._random.choice(FAULTS) if self._random.random() < self.share else None
            if fault is not None:
                self.faults[fault] += 1
            return fault

    def left(self, prompt: str) -> None:
        with self._lock:
            self.delivered[prompt] += 1


class _Handler(Api):
    faulty: ChatFaultServer
    model = MODEL

    def do_POST(self) -> None:
        request = self.read()
        prompt = request["messages"][0]["content"]
        fault = self.faulty.arrived(request)
        time.sleep(self.faulty.seconds)
        if self.faulty.status != 200:
            self.send_error_of(self.faulty.status, "as told")
        elif fault is not None:
            self._fail(fault, prompt)
        elif prompt.startswith("too long"):
            self.send_error_of(400, "the prompt is too long")
        else:
            self.send(200, _completion(prompt))
            self.faulty.left(prompt)

    def _fail(self, fault: str, prompt: str) -> None:
        whole = _completion(prompt)
        if fault == "hang":
            time.sleep(HANG_SECONDS)
        if fault in ("hang", "cut"):
            self.close_connection = True
        elif fault == "cut body":
            self.send(200, whole, cut=True)
        elif fault == "truncated":
            self.send(200, whole[: len(whole) // 2])
        elif fault in STATUSES:
            self.send_error_of(STATUSES[fault], "as told")
        else:
            self.send(200, GARBAGE[fault])


def _completion(prompt: str) -> bytes:
    usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(prompt.split()) + 1}
    choice = {"index": 0, "message": {"role": "assistant", "content": f"echo: {prompt}"}, "finish_reason": "stop"}
    return json.dumps({"model": MODEL, "choices": [choice], "usage": usage}).encode()
