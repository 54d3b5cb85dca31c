"""A chat server for the test of the refining stage: it rewrites by rule, badly where the document says so, and remembers all it did.

A document says so in a line `!refuse`, `!refuse once`, `!cut once`, `!cut`, `!echo`, `!swell`, `!shrink`, `!german`, `!copy` or `!overlong`;
without one it comes back without its lines `Menu`, behind a preamble and in a code fence.
"""

import contextlib
import re
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import model_api
from model_api import Api

from megatron_octo.curation.language_model.answers import Question
from megatron_octo.servers import Server

MODEL = "rewriter"
#: Of LanguageModel.
SEED = 1234
REFUSAL = "I'm sorry, but I can't help with that."
GERMAN = (
    "Die Fläche eines Kreises ist das Produkt aus der Kreiszahl und dem Quadrat seines Radius, wie schon Archimedes wusste. "
    * 2
)


class RewritingServer:
    """What it was asked and gave, by the key of the question."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.given: Counter[str] = Counter()
        #: After so many answers the rest wait, for the test to kill who asks.
        self.most_answers: int | None = None
        #: Of calls to `allow`: who asked before the last one is dead.
        self.rounds = 0
        self.changed = threading.Condition()
        self.server = Server(url="http://none", model=MODEL)

    @contextlib.contextmanager
    def running(self, *, concurrency: int = 4) -> Iterator["RewritingServer"]:
        class Handler(_Handler):
            ours = self

        with model_api.serving(Handler) as url:
            self.server = Server(url=url, model=MODEL, concurrency=concurrency)
            yield self
            self.allow(None)

    def allow(self, answers: int | None) -> None:
        """So many answers from now on; None for any number."""
        with self.changed:
            self.rounds += 1
            self.most_answers = None if answers is None else self.given.total() + answers
            self.changed.notify_all()

    def wait_for_all_allowed(self, timeout: float = 60.0) -> None:
        with self.changed:
            assert self.changed.wait_for(self._is_at_its_limit, timeout)

    def _is_at_its_limit(self) -> bool:
        return self.most_answers is not None and self.given.total() >= self.most_answers


class _Handler(Api):
    ours: RewritingServer
    model = MODEL

    def do_POST(self) -> None:
        ours, asked = self.ours, self.read()
        question = _question(asked)
        with ours.changed:
            ours.asked[question.key()] += 1
            rounds = ours.rounds
            ours.changed.wait_for(lambda: rounds < ours.rounds or not ours._is_at_its_limit())
            if rounds < ours.rounds:
                self.close_connection = True
                return
            ours.given[question.key()] += 1
            ours.changed.notify_all()
        text, finish_reason = rewritten(_shown(question.prompt), question.attempt)
        if finish_reason is None:
            self.send_error_of(400, "this model's maximum context length is 7 tokens")
            return
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": len(question.prompt.split()), "completion_tokens": len(text.split())}
        choice = {"index": 0, "message": message, "finish_reason": finish_reason}
        self.send(
            200,
            {"id": "r", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice], "usage": usage},
        )


def rewritten(text: str, attempt: int) -> tuple[str, str | None]:
    """Answer and finish_reason; None for a refused request."""
    found = re.search(r"^!(.+)$", text, re.MULTILINE)
    order = found[1] if found else ""
    if order.endswith(" once"):
        order = "" if attempt else order.removesuffix(" once")
    good = re.sub(r"^(Menu|!).*\n*", "", text, flags=re.MULTILINE)
    return {
        "refuse": (REFUSAL, "stop"),
        "cut": (good[:20], "length"),
        "echo": ("- This is no summary: stay near the length of what is about the subject.\n" + good, "stop"),
        "swell": (good * 5, "stop"),
        "shrink": ("Circles.", "stop"),
        "german": (GERMAN, "stop"),
        "copy": (text, "stop"),
        "overlong": ("", None),
    }.get(order, (f"Here is the rewritten text:\n\n```markdown\n{good}\n```", "stop"))


def _shown(prompt: str) -> str:
    found = re.search(r"<text>\n(.*)\n</text>", prompt, re.DOTALL)
    assert found is not None
    return found[1]


def _question(asked: dict[str, Any]) -> Question:
    """As the client knows it."""
    return Question(
        model=asked["model"],
        prompt=asked["messages"][0]["content"],
        max_new_tokens=asked["max_tokens"],
        temperature=asked["temperature"],
        seed=asked["seed"],
        attempt=asked["seed"] - SEED,
    )
