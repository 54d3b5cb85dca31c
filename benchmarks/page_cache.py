"""A directory's files in the page cache, or out of it."""

import os
import subprocess
from pathlib import Path


def read_through(directory: Path) -> None:
    for file in _files(directory):
        with file.open("rb", buffering=0) as stream:
            while stream.read(2**24):
                pass


def forget(directory: Path) -> None:
    """Out of the page cache, and these files alone: programs stay in it. What is not on the disk yet stays, too."""
    for file in _files(directory):
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cached_share(directory: Path) -> float:
    """Share of the files' bytes that are in the page cache."""
    paths = _files(directory)
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES", *map(str, paths)]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return sum(map(int, found)) / sum(path.stat().st_size for path in paths)


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())
