"""What asking a language model costs this side of the server: `asking.each`, datatrove's `InferenceRunner`, and the bare openai client.

    pip install aiosqlite aiofiles httpx   # what datatrove's runner imports and does not declare
    python benchmarks/curation_asking.py --requests 1000

All ask the stand-in, which runs in a process of its own, with the same prompts of 2.6 kB and 32 requests under way. Ours and datatrove's keep
every answer on disk; the last row is ours once more, with all answers there. The contenders take turns; the least CPU time counts, wall
time is that of the same turn. Prints Markdown.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.inference.run_inference import InferenceConfig, InferenceRunner
from datatrove.pipeline.writers import JsonlWriter
from loguru import logger

from megatron_octo import server_client
from megatron_octo.curation.config import LanguageModel
from megatron_octo.curation.language_model import asking, model_server, prompts
from megatron_octo.curation.language_model.asking import Ask
from megatron_octo.servers import Server

TURNS = 3
MAX_NEW_TOKENS = 64
WORDS = "The sum of two odd numbers is even, and so is their difference, since $2k + 1 + 2l + 1 = 2(k + l + 1)$. " * 13

#: Asks everything, answers on disk below the folder; returns how many answers came.
Contender = Callable[[Server, int, Path], int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000)
    num_requests: int = parser.parse_args().requests
    logger.remove()
    contenders: dict[str, Contender] = {"openai client": bare, "datatrove": datatrove, "ours": ours}
    with model_server.running(LanguageModel()) as server, tempfile.TemporaryDirectory() as scratch:
        turns: dict[str, list[tuple[float, float]]] = {name: [] for name in (*contenders, "ours, answered before")}
        for turn in range(TURNS):
            for name, contender in contenders.items():
                turns[name].append(timed(contender, server, num_requests, Path(scratch) / f"{name} {turn}"))
            turns["ours, answered before"].append(timed(ours, server, num_requests, Path(scratch) / f"ours {turn}"))
    print("| | CPU ms/request | requests/s |\n| --- | ---: | ---: |")
    for name, measured in turns.items():
        cpu, wall = min(measured)
        print(f"| {name} | {1000 * cpu / num_requests:.2f} | {num_requests / wall:,.0f} |")


def timed(contender: Contender, server: Server, num_requests: int, folder: Path) -> tuple[float, float]:
    """Seconds of CPU and on the wall."""
    cpu, wall = time.process_time(), time.perf_counter()
    answered = contender(server, num_requests, folder)
    if answered != num_requests:
        raise RuntimeError(f"{contender.__name__} got {answered} of {num_requests} answers")
    return time.process_time() - cpu, time.perf_counter() - wall


def ours(server: Server, num_requests: int, folder: Path) -> int:
    async def work(ask: Ask, prompt: str) -> str:
        return (await ask(prompt, max_new_tokens=MAX_NEW_TOKENS)).text

    results = asking.each(
        questions(num_requests), work, model=LanguageModel(), server=server, cache=folder / "answers.jsonl"
    )
    return sum(1 for _ in results)


def bare(server: Server, num_requests: int, folder: Path) -> int:
    async def everything() -> int:
        slots = asyncio.Semaphore(server.concurrency)
        async with server_client.client(server) as client:

            async def one(prompt: str) -> Any:
                async with slots:
                    return await client.chat.completions.create(
                        model=server.model, messages=[{"role": "user", "content": prompt}], max_tokens=MAX_NEW_TOKENS
                    )

            return len(await asyncio.gather(*map(one, questions(num_requests))))

    return asyncio.run(everything())


def datatrove(server: Server, num_requests: int, folder: Path) -> int:
    async def rollout(document: Document, generate: Callable[[dict[str, Any]], Any]) -> Any:
        return await generate({"messages": [{"role": "user", "content": document.text}], "max_tokens": MAX_NEW_TOKENS})

    runner = InferenceRunner(
        rollout_fn=rollout,
        config=InferenceConfig(
            server_type="endpoint",
            endpoint_url=server.url.removesuffix("/v1"),
            model_name_or_path=server.model,
            max_concurrent_generations=server.concurrency,
        ),
        output_writer=JsonlWriter(str(folder), output_filename="${rank}_${chunk_index}.jsonl", compression=None),
        checkpoints_local_dir=str(folder / "checkpoints"),
    )
    documents = (Document(text=text, id=str(number)) for number, text in enumerate(questions(num_requests)))
    runner.run(documents, rank=0, world_size=1)
    return sum(len(file.read_bytes().splitlines()) for file in folder.glob("*.jsonl"))


def questions(count: int) -> Iterator[str]:
    return (prompts.fill(prompts.ANNOTATE, f"Page {number}. {WORDS}") for number in range(count))


if __name__ == "__main__":
    main()
