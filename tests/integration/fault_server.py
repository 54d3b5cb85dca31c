"""A fault injector: a completions server of one model, `echo`, that answers with the prompt's last word, or as badly as told."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

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

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            self.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield self
            server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    faults: FaultServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if not self.path.startswith("/v1/"):
            self._send(200, b"<html>It works!</html>", "text/html")
            return
        self.faults.keys.add(self.headers.get("Authorization"))
        status = self.faults.models_status
        models = {"object": "list", "data": [{"id": "echo", "object": "model"}]}
        self._answer(status, models if status == 200 else _error(status))

    def do_POST(self) -> None:
        faults = self.faults
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
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
            self._answer(fault, _error(fault))
        else:
            self._answer(200, _completion(asked), cut=fault == CUT_BODY)

    def _answer(self, status: int, data: dict[str, Any], *, cut: bool = False) -> None:
        self.close_connection = self.close_connection or cut
        self._send(status, json.dumps(data).encode(), "application/json", cut=cut)

    def _send(self, status: int, body: bytes, kind: str, *, cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)

    def log_message(self, *_: object) -> None:
        """Not a word."""


def _error(status: int) -> dict[str, Any]:
    return {"error": {"message": f"told to say {status}"}}


def _completion(asked: dict[str, Any]) -> dict[str, Any]:
    word = asked["prompt"].split()[-1]
    choice = {"index": 0, "text": f" {word}", "finish_reason": "length" if word == "long" else "stop", "logprobs": None}
    usage = {"prompt_tokens": 1, "completion_tokens": len(word), "total_tokens": 1 + len(word)}
    return {
        "id": "c", "object": "text_completion", "created": 0, "model": "echo", "choices": [choice], "usage": usage,
    }  # fmt: skip
