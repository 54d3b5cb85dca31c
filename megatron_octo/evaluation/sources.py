"""Where a benchmark's files lie in a directory. No heavy import."""

from collections.abc import Sequence
from pathlib import Path

from megatron_octo.errors import CorpusError
from megatron_octo.evaluation.benchmarks import named
from megatron_octo.evaluation.config import Source

SUFFIXES = (".jsonl", ".parquet")


def local(names: Sequence[str], directory: Path) -> list[Source]:
    """Benchmarks of a directory. Raises `CorpusError` that names all whose files are missing."""
    if not directory.is_dir():
        raise CorpusError(
            f"{directory} is no directory; name the one with the benchmarks' files, or leave --data out: the hub"
        )
    missing = [name for name in names if _existing(directory, name) is None]
    if missing:
        there = " ".join(f"--suite {name}" for name in names if name not in missing)
        others = f"; or take those that are: {there}" if there else ""
        raise CorpusError(
            f"{directory} has no files of {', '.join(missing)}, such as {missing[0]}{f' or {missing[0]}'.join(SUFFIXES)}; put them there, "
            f"or leave --data out to take all from the Hugging Face hub{others}"
        )
    return [_source(name, directory) for name in names]


def _source(name: str, directory: Path) -> Source:
    """A benchmark's files: NAME.jsonl or .parquet, and NAME.train.* or that of the one whose examples it shows."""
    file = _existing(directory, name)
    shots_file = _existing(directory, f"{name}.train") or _existing(directory, f"{donor(name)}.train")
    return Source(name=name, file=file, shots_file=shots_file)


def donor(name: str) -> str:
    """Whose examples a benchmark shows."""
    return named(name).shots_of or name


def _existing(directory: Path, stem: str) -> Path | None:
    return next((file for suffix in SUFFIXES if (file := directory / f"{stem}{suffix}").exists()), None)
