"""Write the generated world: TinyWorld -> OUT/<corpus>.jsonl, OUT/rl.jsonl, OUT/test.jsonl.

A corpus has one `{"text": ...}` per line; problems carry question, answer, number of operations and chain. What is written is
checked again against the held-out rule of `world.py`: no training text and no RL question may hold a test chain.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from megatron_octo import artifacts, process, progress
from megatron_octo.curation import world
from megatron_octo.curation.config import TinyWorld
from megatron_octo.errors import ConfigError, CorpusError, nearest


def run(config: TinyWorld, out: Path, force: bool) -> None:
    _check(config)
    with artifacts.stage(out, kind="curate", config=config, force=force) as stage:
        if stage.done:
            return
        total = sum(size.documents for size in config.corpora)
        with progress.bar("write the tiny world", total=total, unit="documents") as advance:
            for size in config.corpora:
                rows = _documents(size.corpus, config.seed, size.documents, advance)
                stage.counts[f"{size.corpus}_documents"] = write_jsonl(out / f"{size.corpus}.jsonl", rows)
        stage.counts["rl_problems"] = write_jsonl(out / "rl.jsonl", _rl_problems(config))
        stage.counts["test_problems"] = write_jsonl(out / "test.jsonl", _test_problems(config))


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write one JSON object per line and return their number; the file appears when it is complete."""
    written = 0
    with artifacts.appearing(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            written += 1
    return written


def _check(config: TinyWorld) -> None:
    names = [size.corpus for size in config.corpora]
    for name in names:
        if name not in world.CORPORA:
            raise ConfigError(f"the tiny world has no corpus '{name}'{nearest(name, world.CORPORA)}")
        if names.count(name) > 1:
            raise ConfigError(
                f"corpus '{name}' is listed {names.count(name)} times; list it once with all its documents"
            )


def _documents(corpus: str, seed: int, count: int, advance: progress.Advance) -> Iterator[dict[str, str]]:
    for number, text in enumerate(world.documents(corpus, seed, count), start=1):
        _refuse_held_out(text, f"document {number} of '{corpus}'")
        advance(1, corpus)
        yield {"text": text}


def _rl_problems(config: TinyWorld) -> Iterator[dict[str, Any]]:
    for number, problem in enumerate(world.problems(config.seed, config.rl_problems, "train"), start=1):
        _refuse_held_out(problem.question, f"RL question {number}")
        yield dataclasses.asdict(problem)


def _test_problems(config: TinyWorld) -> Iterator[dict[str, Any]]:
    """Every one must be recognised by the rule, or finding none in the training text would prove nothing."""
    for number, problem in enumerate(world.problems(config.seed, config.test_problems, "test"), start=1):
        if not world.held_out_in(problem.question):
            raise CorpusError(f"test question {number} is not covered by the held-out rule: {problem.question!r}")
        yield dataclasses.asdict(problem)


def _refuse_held_out(text: str, where: str) -> None:
    if world.held_out_in(text):
        raise CorpusError(f"{where} holds a test question: {text!r}; the world must be generated without it")


if __name__ == "__main__":
    raise SystemExit(process.main(run, TinyWorld))
