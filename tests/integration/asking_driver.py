"""Asks a server `count` questions and writes what it was told: `python asking_driver.py URL CACHE OUT COUNT [MAX_TOKENS]`. Killed in tests."""

import sys
from pathlib import Path

from megatron_octo import process
from megatron_octo.curation.config import LanguageModel
from megatron_octo.curation.language_model import asking
from megatron_octo.curation.language_model.asking import Ask
from megatron_octo.servers import Server


async def work(ask: Ask, number: int) -> str:
    """A question, and one more about its answer."""
    first = await ask(f"question {number}", max_new_tokens=16)
    second = await ask(f"about {first.text}", max_new_tokens=16)
    return second.text


def main() -> None:
    url, cache, out, count, *most = sys.argv[1:]
    server = Server(url=url, model="echo", concurrency=4)
    model = LanguageModel(server=server, max_tokens=int(most[0]) if most else None)
    results = asking.each(range(int(count)), work, model=model, server=server, cache=Path(cache))
    Path(out).write_text("".join(f"{line}\n" for line in results))


if __name__ == "__main__":
    raise SystemExit(process.exit_code(main))
