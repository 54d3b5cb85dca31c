"""A small Hugging Face hub: data sets as directories of files, at one commit. It knows just what `curation/data_sets/hub.py` asks."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextlib.contextmanager
def serving(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Data sets ROOT/<owner>/<name>/...; gives the url for HF_ENDPOINT and the files that were fetched so far."""
    fetched: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            if path.startswith("/api/datasets/"):
                self._say(200, json.dumps(_described(root, path.removeprefix("/api/datasets/"))).encode(), with_body)
                return
            data_set, _, name = path.removeprefix("/datasets/").partition(f"/resolve/{COMMIT}/")
            file = root / data_set / name
            if not name or not file.is_file():
                self._say(404, b"", with_body)
                return
            if with_body:
                fetched.append(name)
            self._say(200, file.read_bytes(), with_body)

        def _say(self, status: int, body: bytes, with_body: bool) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", fetched
        finally:
            server.shutdown()


def _described(root: Path, asked: str) -> object:
    """`<owner>/<name>`: its newest commit; `<owner>/<name>/tree/<commit>`: its files."""
    data_set, _, commit = asked.partition("/tree/")
    if not commit:
        return {"id": data_set, "sha": COMMIT, "private": False, "gated": False, "tags": [], "siblings": []}
    files = sorted(file for file in (root / data_set).rglob("*") if file.is_file())
    return [
        {"type": "file", "path": str(file.relative_to(root / data_set)), "size": file.stat().st_size, "oid": "0" * 40}
        for file in files
    ]
