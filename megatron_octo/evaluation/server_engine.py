"""Completions by any server that speaks OpenAI's `/v1/completions`: vLLM's, SGLang's, llama.cpp's.

A prompt is sent as text. The server tokenizes it and puts BOS in front by itself where the model's files say so; a template must
not begin with BOS. Key: OPENAI_API_KEY, where the server wants one. What is finished comes at once, so a broken server
loses what it is at, and nothing it has given.
"""

import asyncio
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from megatron_octo.errors import ResourceError
from megatron_octo.evaluation.completions import Completion, Sampling
from megatron_octo.evaluation.engines import seed_at
from megatron_octo.server_client import client, explaining, require_model
from megatron_octo.servers import Server
from megatron_octo.templates import before_stop

if TYPE_CHECKING:
    import openai


class ServerCompleter:
    """A model behind a server, asked whether it is there before the first prompt is sent."""

    def __init__(self, server: Server) -> None:
        self._server = server
        require_model(server)

    def complete(
        self, prompts: Sequence[str], sampling: Sampling, *, done: Collection[int]
    ) -> Iterator[list[tuple[int, Completion]]]:
        """What is finished together; `Server.concurrency` requests are under way at a time."""
        with asyncio.Runner() as runner:
            pool = _Requests(
                self._server, prompts, sampling, (place for place in range(len(prompts)) if place not in done)
            )
            try:
                while finished := runner.run(pool.finished()):
                    given = [(place, task.result()) for place, task in finished if task.exception() is None]
                    if given:
                        yield given
                    for _, task in finished:
                        task.result()  # raises what went wrong, after what went well has been given
            finally:
                runner.run(pool.close())


class _Requests:
    """Requests under way on one event loop."""

    def __init__(self, server: Server, prompts: Sequence[str], sampling: Sampling, places: Iterator[int]) -> None:
        self._server, self._prompts, self._sampling, self._places = server, prompts, sampling, places
        self._running: dict[asyncio.Task[Completion], int] = {}
        self._client = client(server)

    async def finished(self) -> list[tuple[int, "asyncio.Task[Completion]"]]:
        """Fill up with new requests and wait until some have ended; none when there are no more."""
        for place in islice(self._places, self._server.concurrency - len(self._running)):
            self._running[asyncio.create_task(self._ask(place))] = place
        if not self._running:
            return []
        ended, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        return [(self._running.pop(task), task) for task in ended]

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._client.close()

    async def _ask(self, place: int) -> Completion:
        sampling = self._sampling
        with explaining(self._server):
            answer = await self._client.completions.create(
                model=self._server.model,
                prompt=self._prompts[place],
                max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                stop=list(sampling.stop_strings) or None,
                seed=seed_at(sampling.seed, place),
            )
        return _completion(answer, sampling.stop_strings)


def _completion(answer: "openai.types.Completion", stop_strings: Sequence[str]) -> Completion:
    (choice,) = answer.choices
    if choice.finish_reason not in ("stop", "length") or answer.usage is None:
        raise ResourceError(
            f"the server ended a response with finish_reason={choice.finish_reason} and usage={answer.usage}; it must say stop "
            "or length, and count its tokens"
        )
    return Completion(
        text=before_stop(choice.text, stop_strings),
        num_tokens=answer.usage.completion_tokens,
        finished=choice.finish_reason == "stop",
    )
