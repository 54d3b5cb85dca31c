"""Where a benchmark's files lie in a directory. No heavy import."""

from pathlib import Path

from megatron_octo.errors import CorpusError
from megatron_octo.evaluation.benchmarks import named
from megatron_octo.evaluation.config import Source

SUFFIXES = (".jsonl", ".parquet")


def local(name: str, directory: Path) -> Source:
    """A benchmark's files: NAME.jsonl or .parquet, and NAME.train.* or that of the one whose examples it shows."""
    file = _existing(directory, name)
    if file is None:
        raise CorpusError(
            f"{directory} holds none of {' and '.join(name + suffix for suffix in SUFFIXES)}; leave --data out to take "
            f"{name} from the Hugging Face hub"
        )
    shots_file = _existing(directory, f"{name}.train") or _existing(directory, f"{donor(name)}.train")
    return Source(name=name, file=file, shots_file=shots_file)


def donor(name: str) -> str:
    """Whose examples a benchmark shows."""
    return named(name).shots_of or name


def _existing(directory: Path, stem: str) -> Path | None:
    return next((file for suffix in SUFFIXES if (file := directory / f"{stem}{suffix}").exists()), None)
