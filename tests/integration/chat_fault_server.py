"""A chat server that echoes prompts, or treats a share of the requests badly, and knows what it has delivered."""

import contextlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

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

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *_: object) -> None:
                """A client that is gone is part of the plan."""

        with Server(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield self
            server.shutdown()

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


class _Handler(BaseHTTPRequestHandler):
    faulty: ChatFaultServer
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16

    def do_GET(self) -> None:
        self._send(200, json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode())

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = request["messages"][0]["content"]
        fault = self.faulty.arrived(request)
        time.sleep(self.faulty.seconds)
        if self.faulty.status != 200:
            self._send(self.faulty.status, b'{"error": {"message": "as told"}}')
        elif fault is not None:
            self._fail(fault, prompt)
        elif prompt.startswith("too long"):
            self._send(400, b'{"error": {"message": "the prompt is too long"}}')
        else:
            self._send(200, _completion(prompt))
            self.faulty.left(prompt)

    def _fail(self, fault: str, prompt: str) -> None:
        whole = _completion(prompt)
        if fault == "hang":
            time.sleep(HANG_SECONDS)
        if fault in ("hang", "cut"):
            self.close_connection = True
        elif fault == "cut body":
            self._send(200, whole, sent=len(whole) // 2)
        elif fault == "truncated":
            self._send(200, whole[: len(whole) // 2])
        elif fault in STATUSES:
            self._send(STATUSES[fault], b'{"error": {"message": "as told"}}')
        else:
            self._send(200, GARBAGE[fault])

    def _send(self, status: int, body: bytes, *, sent: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:sent])
        self.wfile.flush()
        self.close_connection = self.close_connection or sent is not None

    def log_message(self, *_: object) -> None:
        """Not a word."""


def _completion(prompt: str) -> bytes:
    usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(prompt.split()) + 1}
    choice = {"index": 0, "message": {"role": "assistant", "content": f"echo: {prompt}"}, "finish_reason": "stop"}
    return json.dumps({"model": MODEL, "choices": [choice], "usage": usage}).encode()
