"""What `eval`, `compare` and `overlap` are asked for on the command line: suites, benchmarks and files as sources of questions."""

import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from megatron_octo.errors import ConfigError, CorpusError, nearest
from megatron_octo.evaluation import benchmarks
from megatron_octo.evaluation.config import Source
from megatron_octo.evaluation.sources import local
from megatron_octo.servers import Server
from megatron_octo.templates import Template


def sources(
    suites: Sequence[str], *, datasets: Sequence[Path], data: Path | None, shots_file: Path | None
) -> tuple[Source, ...]:
    """Every benchmark once, in the order named; files of the user's own come after them.

    Args:
        suites: names of suites and of benchmarks.
        datasets: files of {"question", "answer"}, named after their stem.
        data: directory with `<benchmark>.jsonl` or `.parquet`, and `<benchmark>.train.jsonl` for few-shot examples.
        shots_file: few-shot examples for all of them.
    Raises:
        ConfigError: nothing or something unknown is named.
        CorpusError: a file is missing.
    """
    names = list(dict.fromkeys(name for word in suites for name in _expand(word)))
    found = [Source(name=name) for name in names] if data is None else local(names, data)
    if shots_file is not None:
        found = [dataclasses.replace(source, shots_file=_there(shots_file)) for source in found]
    found += [Source(name=file.stem, file=_there(file), shots_file=shots_file) for file in datasets]
    if not found:
        raise ConfigError(
            f"nothing to evaluate on; name --suite {'|'.join(benchmarks.SUITES)} or a benchmark, or --dataset FILE"
        )
    return tuple(found)


def template(
    given: Template | None, file: Path | None, *, suites: Sequence[str], num_shots: int | None, shots_file: Path | None
) -> Template | None:
    """How to ask: zero-shot with a template, or None for few-shot, which suites are, and files of the user's own with examples.

    Raises `ConfigError` for examples that nobody would be shown.
    """
    asked = given or (Template.FILE if file is not None else None)
    if asked is not None and shots_file is not None:
        raise ConfigError(
            f"--shots-file {shots_file} with --template {asked.value}, which is zero-shot; leave one of them out"
        )
    if not suites and shots_file is not None and num_shots is None:
        raise ConfigError(f"--shots-file {shots_file} without --num-shots N: a --dataset has no number of its own")
    few_shot = asked is None and (suites or num_shots)
    return None if few_shot else asked or Template.SIMPLE


def server(url: str | None, model: str | None) -> Server | None:
    """Raises `ConfigError` where one is named without the other."""
    if url is None and model is None:
        return None
    if url is None or model is None:
        raise ConfigError("a server needs both --server URL and --served-model NAME")
    return Server(url=url, model=model)


def compare(before: Path, after: Path, *, as_json: bool) -> int:
    """Prints the comparison of two evaluations, in a process of its own: it needs numpy. Returns its exit code."""
    options = ["--json"] if as_json else []
    command = [sys.executable, "-m", "megatron_octo.evaluation.compare", str(before), str(after), *options]
    return subprocess.run(command, check=False).returncode


def _expand(word: str) -> Sequence[str]:
    if word in benchmarks.SUITES:
        return benchmarks.SUITES[word]
    if word in benchmarks.BENCHMARKS:
        return (word,)
    known = [*benchmarks.SUITES, *benchmarks.BENCHMARKS]
    raise ConfigError(
        f"unknown suite or benchmark '{word}'{nearest(word, known)}; for a file of your own use --dataset"
    )


def _there(file: Path) -> Path:
    if not file.is_file():
        raise CorpusError(f"{file} is not a readable file")
    return file
