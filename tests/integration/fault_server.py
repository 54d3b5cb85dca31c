"""A fault injector: a completions server of one model, `echo`, that answers with the prompt's last word, or as badly as told."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import model_api
from model_api import Api

#: Instead of an answer: an HTTP status, or the connection cut before (`CUT`) or within (`CUT_BODY`) one.
CUT, CUT_BODY = "cut", "cut body"


class FaultServer:
    """What it was asked, in order of arrival, and what it does about it."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.most_at_once = 0
        #: The fault for the n-th request (from 0), or None.
        self.fault: Callable[[int], int | str | None] = lambda number: None
        self.models_status = 200
        self.seconds = 0.0
        self.at_once = 0
        self.lock = threading.Lock()
        self.url = ""

    @contextlib.contextmanager
    def running(self) -> Iterator["FaultServer"]:
        class Handler(_Handler):
            faults = self

        with model_api.serving(Handler) as self.url:
            yield self


class _Handler(Api):
    faults: FaultServer
    model = "echo"

    def do_GET(self) -> None:
        if not self.path.startswith("/v1/"):
            self.send(200, b"<html>It works!</html>", kind="text/html")
            return
        self.faults.keys.add(self.headers.get("Authorization"))
        if self.faults.models_status == 200:
            super().do_GET()
        else:
            self._fail(self.faults.models_status)

    def do_POST(self) -> None:
        faults = self.faults
        asked = self.read()
        with faults.lock:
            fault = faults.fault(len(faults.asked))
            faults.asked.append(asked)
            faults.at_once += 1
            faults.most_at_once = max(faults.most_at_once, faults.at_once)
        time.sleep(faults.seconds)
        with faults.lock:
            faults.at_once -= 1
        if fault == CUT:
            self.close_connection = True
        elif isinstance(fault, int):
            self._fail(fault)
        else:
            self.send(200, _completion(asked), cut=fault == CUT_BODY)

    def _fail(self, status: int) -> None:
        self.send_error_of(status, f"told to say {status}")


def _completion(asked: dict[str, Any]) -> dict[str, Any]:
    word = asked["prompt"].split()[-1]
    choice = {"index": 0, "text": f" {word}", "finish_reason": "length" if word == "long" else "stop", "logprobs": None}
    usage = {"prompt_tokens": 1, "completion_tokens": len(word), "total_tokens": 1 + len(word)}
    return {
        "id": "c", "object": "text_completion", "created": 0, "model": "echo", "choices": [choice], "usage": usage,
    }  # fmt: skip
