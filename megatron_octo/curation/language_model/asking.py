"""Asking a language model over a chat server, about documents: every answer is paid once, and results come in the order of the items.

    with model_server.running(config.model) as server:
        for result in asking.each(documents, work, model=config.model, server=server, cache=file):
            ...

`work(ask, item)` is a coroutine that asks as often as it likes. Each answer is on disk before `work` sees it (answers.py), so that a kill
costs at most what was under way, and nothing is asked beyond the budget (budget.py). Requests run on an event loop in a thread of its
own: a signal interrupts the caller, never the writing of an answer.

datatrove has an `InferenceRunner`; read in its 0.10.1 source, it writes documents in the order of their completion, makes a log line of a
document that could not be written, sleeps 5 to 160 seconds inside its concurrency limit before each of six tries, and ends a task whose
server once answered garbage.
"""

import asyncio
import contextlib
import json
import signal
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, TypeVar

import openai

from megatron_octo import process, server_client
from megatron_octo.curation.config import LanguageModel
from megatron_octo.curation.language_model import answers
from megatron_octo.curation.language_model.answers import Answer, Answers, Question
from megatron_octo.curation.language_model.budget import Budget, most_tokens
from megatron_octo.errors import OctoError, ResourceError
from megatron_octo.servers import Server

T = TypeVar("T")
R = TypeVar("R")

#: Items under way for each request under way: enough that one long item at the front does not leave the server idle.
ITEMS_PER_REQUEST = 8
#: After a signal, for requests under way; the pool kills a worker three seconds after it told it to end.
GRACE_SECONDS = 2.5
#: Before another try after an answer that is none; other faults are the client's (server_client.py).
GARBAGE_PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)
#: Of a second or later attempt, where the first has 0: a greedy model would say the same again.
RETRY_TEMPERATURE = 0.3
#: What servers say to a prompt they cannot take: 400 (vLLM: longer than the context), 413, 422.
REFUSALS = (400, 413, 422)
#: Between looks whether requests under way have left something of the budget.
BUDGET_POLL_SECONDS = 0.05


class Refused(Exception):  # noqa: N818 - said as it happened
    """The server will not answer this prompt, such as one longer than its context, and would not on another try."""


class Ask(Protocol):
    """One user message to the model.

    Another `attempt` is another question: with another seed, and some temperature. Raises `Refused`; what else it raises
    ends the stage.
    """

    async def __call__(self, prompt: str, *, max_new_tokens: int, attempt: int = 0) -> Answer: ...


def each(
    items: Iterable[T],
    work: Callable[[Ask, T], Awaitable[R]],
    *,
    model: LanguageModel,
    server: Server,
    cache: Path,
) -> Generator[R, None, None]:
    """What `work` gives for every item, in their order; `server.concurrency` requests are under way.

    Args:
        items: read as they are needed.
        cache: the file of this process's answers; its folder is shared by all processes of the stage.
    Raises:
        ConfigError: the server refuses the key or has no such model.
        ResourceError: it does not answer, or the budget is spent (`BudgetSpent`).
    """
    with (
        _ended_by_sigterm(),
        answers.opened(cache) as known,
        _event_loop() as run,
        _asking(run, model, server, known, cache) as ask,
    ):
        under_way: deque[Future[R]] = deque()
        for item in items:
            under_way.append(run(_as_coroutine(work(ask, item))))
            while under_way and (len(under_way) >= ITEMS_PER_REQUEST * server.concurrency or under_way[0].done()):
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


class _Asking:
    """`Ask` with a memory. Lives on the event loop."""

    def __init__(self, model: LanguageModel, server: Server, known: Answers, budget: Budget) -> None:
        self._model, self._server, self._known, self._budget = model, server, known, budget
        self._client = server_client.client(server)
        self._slots = asyncio.Semaphore(server.concurrency)
        self._requests: dict[str, asyncio.Task[Answer]] = {}
        #: What all requests from now on meet with.
        self._end: BaseException | None = None

    async def __call__(self, prompt: str, *, max_new_tokens: int, attempt: int = 0) -> Answer:
        question = self._question(prompt, max_new_tokens, attempt)
        key = question.key()
        if (answer := self._known.get(key)) is not None:
            return answer
        if (request := self._requests.get(key)) is None:  # else two documents ask the same
            request = self._requests[key] = asyncio.create_task(self._ask(key, question))
            request.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(request)

    async def close(self) -> None:
        """Begin nothing more, wait for what is under way as long as allowed, and give up the rest."""
        self._end = asyncio.CancelledError()
        if self._requests:
            await asyncio.wait(self._requests.values(), timeout=GRACE_SECONDS)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.close()

    def _question(self, prompt: str, max_new_tokens: int, attempt: int) -> Question:
        return Question(
            model=self._server.model,
            prompt=prompt,
            max_new_tokens=max_new_tokens,
            temperature=self._model.temperature or (RETRY_TEMPERATURE if attempt else 0.0),
            seed=self._model.seed + attempt,
            attempt=attempt,
        )

    def _forget(self, key: str, request: "asyncio.Task[Answer]") -> None:
        del self._requests[key]
        if not request.cancelled():
            request.exception()  # looked at, also where nobody waits for it any more

    async def _ask(self, key: str, question: Question) -> Answer:
        async with self._slots:
            try:
                return await self._paid(key, question)
            except OctoError as error:
                self._end = error
                raise

    async def _paid(self, key: str, question: Question) -> Answer:
        """An answer within the budget, on disk."""
        self._require_going()
        most = most_tokens(question.prompt, question.max_new_tokens)
        while not self._budget.reserve(most):
            await asyncio.sleep(BUDGET_POLL_SECONDS)
            self._require_going()
        used = 0
        try:
            answer = await self._requested(question)
            used = answer.prompt_tokens + answer.answer_tokens
            self._known.add(key, answer)
        finally:
            self._budget.settle(most, used)
        return answer

    def _require_going(self) -> None:
        if self._end is not None:
            raise self._end

    async def _requested(self, question: Question) -> Answer:
        """Raises what `Ask` raises."""
        for pause in (0.0, *GARBAGE_PAUSES_SECONDS):
            await asyncio.sleep(pause)
            body = await self._body(question)
            with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
                return _answer(body)
        raise ResourceError(
            f"the server at {self._server.url} answers {len(GARBAGE_PAUSES_SECONDS) + 1} times with what is no chat completion with "
            f"text, an end and counted tokens: {body[:200]!r}; mend it and run again: what is done is kept"
        )

    async def _body(self, question: Question) -> bytes:
        try:
            # Raw: what the client would make of garbage is no error.
            response = await self._client.chat.completions.with_raw_response.create(
                model=question.model,
                messages=[{"role": "user", "content": question.prompt}],
                max_tokens=question.max_new_tokens,
                temperature=question.temperature,
                seed=question.seed,
            )
        except openai.APIError as error:
            if isinstance(error, openai.APIStatusError) and error.status_code in REFUSALS:
                raise Refused(error.message) from error
            raise server_client.explained(error, self._server) from error
        return response.content


def _answer(body: bytes) -> Answer:
    """Raises `ValueError`, `LookupError`, `TypeError` or `AttributeError` where a response is no completion."""
    data = json.loads(body)
    choice, usage = data["choices"][0], data["usage"]
    reason = choice["finish_reason"]
    if reason == "content_filter":
        raise Refused("the server's filter holds the answer back")
    if reason not in ("stop", "length"):
        raise ValueError(f"finish_reason is {reason}")
    # None where a model thought until its tokens were used up.
    text = choice["message"]["content"] or ""
    return Answer(
        text=text.encode("utf-8", "replace").decode(),
        finished=reason == "stop",
        prompt_tokens=int(usage["prompt_tokens"]),
        answer_tokens=int(usage["completion_tokens"]),
    )


Run = Callable[[Coroutine[Any, Any, R]], "Future[R]"]


@contextlib.contextmanager
def _asking(run: Run[Any], model: LanguageModel, server: Server, known: Answers, cache: Path) -> Iterator[_Asking]:
    budget = Budget(cache, used=known.tokens, max_tokens=model.max_tokens, concurrency=server.concurrency)

    async def begin() -> _Asking:
        return _Asking(model, server, known, budget)

    try:
        ask: _Asking = run(begin()).result()
        try:
            yield ask
        finally:
            run(ask.close()).result()
    finally:
        budget.close()


@contextlib.contextmanager
def _event_loop() -> Iterator[Run[Any]]:
    """An event loop in a thread of its own, as a function that runs a coroutine there."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="asking", daemon=True)
    thread.start()
    try:
        yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """In a worker SIGTERM ends the process on the spot; here it must let requests under way end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, process.interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


async def _as_coroutine(result: Awaitable[R]) -> R:
    return await result
