"""Which raw files curation reads, and which part reads which of them. Names and sizes only: no file is opened.

A file is read by one part, from its beginning to its end: damage then costs the rest of one file, and rows keep their numbers.
"""

import glob
import heapq
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from megatron_octo import artifacts
from megatron_octo.errors import ArtifactError, CorpusError, listed
from megatron_octo.tokenization import sources
from megatron_octo.tokenization.sources import Kind

ARCHIVE_ENDINGS = (".warc", ".warc.gz")
#: In a stage's logs: the files as they were when they were dealt to the parts.
DEALT = "inputs.json"
ALLOWED = ".jsonl, .json, .ndjson, the same with .gz or .zst, .parquet, .warc and .warc.gz"
#: What Common Crawl calls its dumps; the group is the year.
DUMP = re.compile(r"CC-MAIN-(20\d\d)-\d\d")


def is_archive(file: Path) -> bool:
    return file.name.endswith(ARCHIVE_ENDINGS)


def resolve(patterns: Sequence[Path]) -> list[Path]:
    """The files behind paths, directories (with everything below) and globs, each once, in the order of their paths.

    Raises `CorpusError` where a pattern gives none, or a file cannot be read or is of another kind.
    """
    if not patterns:
        raise CorpusError(f"no inputs given; name files, directories or globs of {ALLOWED}")
    found = {os.path.realpath(file): file for pattern in patterns for file in _expand(pattern)}
    files = sorted(found.values())
    for file in files:
        if sources.kind_of(file) is Kind.ARROW:
            raise CorpusError(
                f"{file}: curation does not read Arrow files; save the data set as Parquet. It reads {ALLOWED}"
            )
        if not os.access(file, os.R_OK):
            raise CorpusError(f"cannot read {file}; name what exists and may be read")
    return files


def dealt(sizes: Sequence[int], parts: int) -> list[list[int]]:
    """Indices of files for each part, in their order: the largest first, each to the part that has least by then.

    >>> dealt([5, 1, 4, 2], 2)
    [[0, 1], [2, 3]]
    """
    hands: list[list[int]] = [[] for _ in range(parts)]
    filled = [(0, part) for part in range(parts)]
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        size, part = heapq.heappop(filled)
        hands[part].append(index)
        # An empty file counts too, or one part would get all of them.
        heapq.heappush(filled, (size + max(1, sizes[index]), part))
    return [sorted(hand) for hand in hands]


def labels(files: Sequence[Path]) -> list[str]:
    """What files are called in ids: their names, with as much of the path before as tells any two of them apart."""
    names = [file.name for file in files]
    if len(set(names)) == len(names):
        return names
    above = os.path.commonpath([file.absolute().parent for file in files])
    return [os.path.relpath(file.absolute(), above) for file in files]


def require_unchanged(files: Sequence[Path], listing: Path) -> None:
    """Parts made by an earlier try, or another task, must have been dealt the same files.

    Args:
        listing: the files as the first try found them; written by it.

    Raises `ArtifactError`.
    """
    now = [[str(file), found.st_size, found.st_mtime_ns] for file in files for found in [file.stat()]]
    before = json.loads(listing.read_text()) if listing.exists() else now
    changed = {name for name, *_ in (entry for entry in [*before, *now] if entry not in before or entry not in now)}
    if changed:
        raise ArtifactError(
            f"{listed(sorted(changed))} changed since the first try, of which some parts may be made; pass --force to begin anew, or "
            "name another directory"
        )
    artifacts.write_json(listing, now)


def dump_of(file: Path) -> str | None:
    """`CC-MAIN-2019-13` of a path that names Common Crawl's dump."""
    found = DUMP.search(str(file))
    return found[0] if found else None


def path_in_crawl(file: Path) -> str | None:
    """The path from the dump's name on, as Common Crawl and MegaMath's `cc-path` have it."""
    found = DUMP.search(str(file))
    return str(file)[found.start() :] if found else None


def _expand(pattern: Path) -> list[Path]:
    archives = _archives(pattern)
    try:
        return [*archives, *sources.resolve([pattern])] if not is_archive(pattern) else archives
    except CorpusError as error:
        # "No corpus file" of a pattern whose files are all archives.
        if archives:
            return archives
        raise CorpusError(str(error).replace(sources.ALLOWED, ALLOWED)) from error


def _archives(pattern: Path) -> list[Path]:
    """WARC files: the file itself, those below a directory, those a glob matches."""
    if pattern.is_dir():
        found = [path for ending in ARCHIVE_ENDINGS for path in pattern.rglob(f"[!._]*{ending}")]
    elif is_archive(pattern) and not glob.has_magic(str(pattern)):
        return [pattern]
    else:
        found = [Path(match) for match in glob.glob(str(pattern), recursive=True) if is_archive(Path(match))]
    return sorted(file for file in found if file.is_file())
