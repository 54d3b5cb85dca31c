"""The stand-in for a language model in the test's own process: it counts every answer it has delivered, and can fall silent."""

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

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

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            self.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield self
            server.shutdown()

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


class _Handler(BaseHTTPRequestHandler):
    chat: ChatServer
    protocol_version = "HTTP/1.1"
    # An answer in two packets would wait 40 ms for the first one's acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._send({"object": "list", "data": [{"id": stand_in.MODEL, "object": "model"}]})

    def do_POST(self) -> None:
        question = self.rfile.read(int(self.headers["Content-Length"]))
        asked = json.loads(question)
        answer = stand_in.completion(asked)
        if not self.chat.may_answer():
            self.close_connection = True
            return
        self._send(answer)
        self.chat.note(json.dumps(asked, sort_keys=True))

    def _send(self, data: dict[str, Any]) -> None:
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Not a word."""
