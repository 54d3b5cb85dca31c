"""What the tests' own OpenAI-compatible servers have in common: a list of one model, JSON both ways, a thread that serves."""

import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Api(BaseHTTPRequestHandler):
    """One connection. Servers give it a `model` and a `do_POST`."""

    model: str
    protocol_version = "HTTP/1.1"
    # An answer in two packets would wait 40 ms for the first one's acknowledgement.
    wbufsize = 1 << 16

    def do_GET(self) -> None:
        self.send(200, {"object": "list", "data": [{"id": self.model, "object": "model"}]})

    def read(self) -> dict[str, Any]:
        """The request."""
        asked: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return asked

    def send(
        self, status: int, data: dict[str, Any] | bytes, *, kind: str = "application/json", cut: bool = False
    ) -> None:
        """Has left when this returns; with `cut` its first half, and then the connection ends."""
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.wfile.flush()
        self.close_connection = self.close_connection or cut

    def send_error_of(self, status: int, message: str) -> None:
        self.send(status, {"error": {"message": message}})

    def log_message(self, *_: object) -> None:
        """Not a word."""


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    #: Connections that come at once; the default of 5 makes clients wait a second.
    request_queue_size = 256

    def handle_error(self, *address: Any) -> None:
        """A client that was killed is part of the plan."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*address)


@contextlib.contextmanager
def serving(handler: type[Api]) -> Iterator[str]:
    """The URL of a server on a free port."""
    with _Listener(("127.0.0.1", 0), handler) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listener.server_address[1]}/v1"
        finally:
            listener.shutdown()
