"""Which files a corpus is made of, and the pieces they are worked on in: paths, directories, globs -> files -> pieces.

Names and sizes only: no corpus file is opened, so 10,000 of them take well under a second on a local disk.
"""

import contextlib
import enum
import glob
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_octo.errors import CorpusError


class Kind(enum.Enum):
    """How the documents of a file are stored, told by the end of its name."""

    LINES = "lines"
    GZIP_LINES = "gzip"
    ZSTD_LINES = "zstd"
    PARQUET = "parquet"
    ARROW = "arrow"


LINE_ENDINGS = (".jsonl", ".json", ".ndjson")
KINDS = (
    dict.fromkeys(LINE_ENDINGS, Kind.LINES)
    | {f"{name}.gz": Kind.GZIP_LINES for name in LINE_ENDINGS}
    | {f"{name}.zst": Kind.ZSTD_LINES for name in LINE_ENDINGS}
    | {".parquet": Kind.PARQUET, ".arrow": Kind.ARROW}
)
ALLOWED = f"{', '.join(LINE_ENDINGS)}, the same with .gz or .zst, .parquet and .arrow"

#: Lists the data files of a directory `datasets.save_to_disk` wrote.
DATASET_STATE = "state.json"
#: JSON that tells about a directory and is no part of its text; the last two are this package's own.
NOT_TEXT = (
    DATASET_STATE,
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "stage.json",
    "manifest.json",
)
#: In the directory of a stage of this package, beside its text: what it logged, and what curation dropped.
STAGE, BESIDE_TEXT = "stage.json", ("logs", "rejects")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A file, or one of several parts of it: what one worker turns into one shard."""

    path: Path
    #: Which part this is, from 0, and of how many.
    part: int = 0
    parts: int = 1
    #: Size on disk. A part's is its share of the file; what it really holds begins and ends with a line or row group.
    bytes: int
    #: Of the file, as it was when it was cut.
    file_bytes: int
    modified_ns: int

    def __str__(self) -> str:
        return f"{self.path}" if self.parts == 1 else f"{self.path}, part {self.part + 1} of {self.parts}"


def require_unchanged(piece: Piece) -> None:
    """Raises `CorpusError` when the file is not what was cut: its parts would lose documents and double others."""
    with damage(piece.path):
        now = piece.path.stat()
    if (now.st_size, now.st_mtime_ns) != (piece.file_bytes, piece.modified_ns):
        raise CorpusError(
            f"{piece.path} changed during the run ({piece.file_bytes:,} bytes -> {now.st_size:,}); let nothing write to it and run "
            "the same command again"
        )


def require_apart(files: Iterable[Path], out: Path) -> None:
    """Raises `CorpusError` when the inputs reach into the output or the launcher's logs beside it."""
    places = tuple(f"{place}{os.sep}" for place in (os.path.realpath(out), f"{os.path.realpath(out)}.logs"))
    for file in files:
        if os.path.realpath(file).startswith(places):
            raise CorpusError(f"the input {file} lies in the output {out} or its logs; name an output elsewhere")


def require_outside(inputs: Iterable[Path], out: Path) -> None:
    """Raises `CorpusError` when the output lies in an input directory: the next try would read it."""
    for path in inputs:
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise CorpusError(f"the output {out} lies in the input directory {path}; name an output elsewhere")


def kind_of(path: Path) -> Kind | None:
    """None for names that are no corpus file's."""
    return next((kind for ending, kind in KINDS.items() if path.name.endswith(ending)), None)


def resolve(patterns: Sequence[Path]) -> list[Path]:
    """The corpus files behind paths, directories (with everything below) and globs, each once, sorted within a pattern.

    A directory `datasets.save_to_disk` wrote gives its files in its own order. Below a directory, names that begin with `.`
    or `_` and files of other kinds are passed over. Raises `CorpusError` when a pattern gives nothing, when a file named
    outright is of no known kind, and when one cannot be read.
    """
    if not patterns:
        raise CorpusError(f"no input files given; name files, directories or globs of {ALLOWED}")
    files: dict[str, Path] = {}
    for file in (file for pattern in patterns for file in _expand(pattern)):
        files.setdefault(os.path.realpath(file), file)
    return [_readable(file) for file in files.values()]


def pieces(files: Iterable[Path], *, piece_bytes: int) -> list[Piece]:
    """Files cut into parts of about `piece_bytes`, in order.

    Plain JSONL is cut by bytes, and a line belongs to the part its first byte lies in; Parquet by row groups, in equal
    numbers. So a part may turn out to be empty, where lines or row groups are longer than it. The rest stays whole.
    """
    return [piece for file in files for piece in _cut(file, file.stat(), piece_bytes)]


def share(whole: int, part: int, parts: int) -> range:
    """The part's run of `whole` bytes or row groups; the runs of all parts are adjacent and cover everything."""
    return range(whole * part // parts, whole * (part + 1) // parts)


@contextlib.contextmanager
def damage(file: Path) -> Iterator[None]:
    """What reading the file trips over, as a `CorpusError` that names it."""
    try:
        yield
    except CorpusError:
        raise
    except OSError as error:
        # pyarrow reports broken content as OSError too, without a number.
        raise (_unreadable(file, os.strerror(error.errno)) if error.errno else _damaged(file, error)) from error
    except (ValueError, NotImplementedError) as error:
        raise _damaged(file, error) from error


def _unreadable(file: Path, reason: str) -> CorpusError:
    return CorpusError(f"cannot read {file}: {reason}; name what exists and may be read")


def _damaged(file: Path, reason: object) -> CorpusError:
    return CorpusError(f"{file} is damaged or cut off ({reason}); fetch or write it again")


def _expand(pattern: Path) -> list[Path]:
    # A name that exists is meant as it stands, whatever brackets are in it.
    if pattern.is_dir():
        return _found(_below(pattern, ()), f"{pattern}: no corpus file in this directory")
    if os.path.lexists(pattern) or not glob.has_magic(str(pattern)):
        if kind_of(_readable(pattern)) is None:
            raise CorpusError(f"{pattern}: unknown kind of corpus file; allowed are {ALLOWED}")
        return [pattern]
    matches = [Path(match) for match in sorted(glob.glob(str(pattern), recursive=True))]
    return _found(_of_matches(matches), f"{pattern}: no corpus file matches")


def _found(files: Iterator[Path], otherwise: str) -> list[Path]:
    found = list(files)
    if not found:
        raise CorpusError(f"{otherwise}; allowed are {ALLOWED}")
    return found


def _of_matches(matches: Iterable[Path]) -> Iterator[Path]:
    for path in matches:
        if path.is_dir():
            yield from _below(path, ())
        elif _is_text(path):
            yield path


def _below(directory: Path, above: tuple[str, ...]) -> Iterator[Path]:
    """All corpus files below; `above` are the real paths on the way down, so that a link in a circle ends the descent."""
    real = os.path.realpath(directory)
    if real in above:
        return
    state = directory / DATASET_STATE
    if state.is_file() and (listed := _listed(state)):
        yield from (directory / name for name in listed)
        return
    with damage(directory), os.scandir(directory) as entries:
        shown = sorted((entry for entry in entries if not entry.name.startswith((".", "_"))), key=lambda e: e.name)
    is_stage = (directory / STAGE).is_file()
    for entry in shown:
        path = directory / entry.name
        if is_stage and entry.name in BESIDE_TEXT:
            continue
        if entry.is_dir():
            yield from _below(path, (*above, real))
        elif _is_text(path):
            yield path


def _is_text(path: Path) -> bool:
    return kind_of(path) is not None and path.name not in NOT_TEXT


def _listed(state: Path) -> list[str]:
    """File names out of the `state.json` of a `datasets` directory; none if it is some other program's."""
    try:
        content = json.loads(state.read_bytes())
    except (OSError, ValueError) as error:
        raise CorpusError(f"cannot read {state} ({error}); save the dataset again or name its .arrow files") from error
    files = content.get("_data_files", ()) if isinstance(content, dict) else ()
    return [file["filename"] for file in files]


def _readable(file: Path) -> Path:
    if not os.access(file, os.R_OK):
        raise _unreadable(file, "permission denied" if file.exists() else "no such file or directory")
    return file


def _cut(file: Path, found: os.stat_result, piece_bytes: int) -> Iterator[Piece]:
    size = found.st_size
    parts = max(1, -(-size // piece_bytes)) if kind_of(file) in (Kind.LINES, Kind.PARQUET) else 1
    for part in range(parts):
        yield Piece(
            path=file,
            part=part,
            parts=parts,
            bytes=len(share(size, part, parts)),
            file_bytes=size,
            modified_ns=found.st_mtime_ns,
        )
