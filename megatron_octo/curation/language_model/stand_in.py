"""A chat server that needs no model: it answers the prompts of prompts.py by rule, the same way every time.

    python -m megatron_octo.curation.language_model.stand_in --port 8000

A page is scored by how much of it looks like mathematics; a page to rewrite comes back without the lines that look like menus and
advertisements. It shows that the pipeline works and says nothing about what a language model would answer.
"""

import argparse
import json
import os
import re
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MODEL = "stand-in"
#: Of an answer, where a request names no limit.
MOST_TOKENS = 1 << 20
#: The document inside a prompt: the last tags are ours, whatever the document holds.
_SHOWN = re.compile(r"<text>\n(.*)\n</text>", re.DOTALL)
_MATH = re.compile(
    r"\\(?:frac|sqrt|sum|int|prod|lim|le|leq|ge|geq|neq|cdot|times|div|pm|infty|in|to|mathbb|begin|left|pi|theta|alpha|beta|sin|cos|log)\b"
    r"|\$[^$\n]{1,200}\$|\\\(|\\\["
    r"|(?<![\w.])-?\d+(?:\.\d+)?\s*[-+*/^=×÷]\s*-?[\da-z(]|\b[a-z]\s*(?:=|\^)\s*-?[\da-z(]|[∑∫√≤≥∞≠∈π]"
    r"|\b(?:theorem|lemma|proof|prove|equation|polynomial|integer|integral|derivative|fraction|triangle|matrix|vector|probability|solve"
    r"|multiply|divide|algebra|geometry|calculus)s?\b",
    re.IGNORECASE,
)
#: Marks per hundred words from which a page has 1, 2, 3, 4 and 5 points.
_POINTS = (0.5, 1.5, 3.0, 8.0, 16.0)
_NOISE = re.compile(
    r"\b(?:advertisement|sponsored|subscribe|sign (?:in|up)|log ?in|register|cookies?|privacy policy|terms of (?:use|service)|newsletter"
    r"|all rights reserved|copyright|share (?:this|on)|click here|read more|follow us|next page|previous page|skip to)\b|©|^\s*(?:home|menu)\b"
    r"|(?:\S+\s*[|»›·]\s*){3}",
    re.IGNORECASE,
)
#: Words of a line that is content even where it has such a phrase.
_MANY_WORDS = 40


def answer(prompt: str) -> str:
    """What the stand-in says to a prompt."""
    found = _SHOWN.search(prompt)
    text = found[1] if found else prompt
    return _scored(text) if "Final score:" in prompt else tidied(text)


def score(text: str) -> int:
    """0 to 5 by marks of mathematics per hundred words."""
    density = 100 * len(_MATH.findall(text)) / max(1, len(text.split()))
    return sum(density >= least for least in _POINTS)


def tidied(text: str) -> str:
    """The lines that are not noise; no more than one empty line in a row."""
    kept = [line.rstrip() for line in text.split("\n") if len(line.split()) > _MANY_WORDS or not _NOISE.search(line)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def _scored(text: str) -> str:
    return (
        f"{len(_MATH.findall(text)):,} marks of mathematics in {len(text.split()):,} words.\nFinal score: {score(text)}"
    )


def completion(asked: dict[str, Any]) -> dict[str, Any]:
    """The response to a request for a chat completion; tokens are words. Raises `LookupError` or `TypeError` where it is none."""
    prompt = asked["messages"][-1]["content"]
    text = answer(prompt)
    words, most = len(text.split()), int(asked.get("max_tokens") or MOST_TOKENS)
    finished = words <= most
    if not finished:
        text, words = " ".join(text.split()[:most]), most
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop" if finished else "length",
    }
    shown = len(prompt.split())
    usage = {"prompt_tokens": shown, "completion_tokens": words, "total_tokens": shown + words}
    return {
        "id": MODEL, "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice], "usage": usage,
    }  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    #: Head and body leave together: apart they would wait for each other's acknowledgement, 40 ms each time.
    wbufsize = 1 << 16

    def do_GET(self) -> None:
        if self.path.rstrip("/") == "/v1/models":
            self._send(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        else:
            self._send(404, {"error": {"message": f"there is no {self.path}"}})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.rstrip("/") != "/v1/chat/completions":
            self._send(404, {"error": {"message": f"there is no {self.path}"}})
            return
        try:
            response = completion(json.loads(body))
        except (ValueError, LookupError, TypeError) as error:
            self._send(400, {"error": {"message": f"this is no chat completion: {error!r}"}})
            return
        self._send(200, response)

    def _send(self, status: int, data: dict[str, Any]) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Not a word."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    #: Connections that come at once; the default of 5 makes clients wait a second.
    request_queue_size = 1024


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m megatron_octo.curation.language_model.stand_in", description=__doc__
    )
    parser.add_argument("--port", type=int, default=8000, help="0 for any that is free")
    parser.add_argument("--url-file", type=Path, help="where to write the address")
    arguments = parser.parse_args(argv)
    with _Server(("127.0.0.1", arguments.port), _Handler) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        print(f"a stand-in for a language model answers at {url}", flush=True)
        if arguments.url_file is not None:
            temporary = arguments.url_file.with_name(f".{arguments.url_file.name}.tmp")
            temporary.write_text(url)
            os.replace(temporary, arguments.url_file)
        server.serve_forever()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
