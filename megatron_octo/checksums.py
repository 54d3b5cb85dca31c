"""The `checksums.json` of a checkpoint: size and sha256 of every file, so that a damaged one is named before it is trained on.

sha256 because stage.json uses it too and because the cheaper crc32 saves nothing: 1.7 GiB/s on one core with SHA
instructions, 3.5 for crc32 (measured November 2026), and storage is slower than both.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_octo.artifacts import hash_file, write_json

FILE = "checksums.json"


@dataclass(frozen=True)
class Checksum:
    """What a file must be."""

    bytes: int
    sha256: str


def of_file(file: Path) -> Checksum:
    return Checksum(bytes=file.stat().st_size, sha256=hash_file(file))


def write(directory: Path, known: Mapping[str, Checksum]) -> int:
    """Write the checksums of all files of a directory, those not known yet computed now. Returns the bytes of them all."""
    # Those of other machines may not be listed here yet.
    files = sorted({*known, *(file.name for file in directory.iterdir())})
    checksums = {name: known.get(name) or of_file(directory / name) for name in files}
    save(directory, checksums)
    return sum(checksum.bytes for checksum in checksums.values())


def save(directory: Path, checksums: Mapping[str, Checksum]) -> None:
    """Write the checksums of these files and no others."""
    write_json(directory / FILE, {name: asdict(checksums[name]) for name in sorted(checksums)})


def read(directory: Path) -> dict[str, Checksum] | None:
    """The checksums of a directory, None where it has none. Raises `ValueError` for a file that is not JSON of that kind."""
    try:
        found: dict[str, Any] = json.loads((directory / FILE).read_text())
        return {name: Checksum(**checksum) for name, checksum in found.items()}
    except FileNotFoundError:
        return None
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{FILE} is not a list of checksums: {error}") from error


def share(checksums: Mapping[str, Checksum], *, rank: int, ranks: int) -> dict[str, Checksum]:
    """One rank's part of the files, about as many bytes for each rank."""
    by_size = sorted(checksums, key=lambda name: (-checksums[name].bytes, name))
    return {name: checksums[name] for name in by_size[rank::ranks]}


def damage(directory: Path, checksums: Mapping[str, Checksum]) -> list[str]:
    """What is wrong with the files, one line each; empty when nothing is."""
    return [line for name, checksum in checksums.items() if (line := _damage(directory / name, checksum))]


def _damage(file: Path, expected: Checksum) -> str | None:
    try:
        size = file.stat().st_size
        if size != expected.bytes:
            return f"{file.name} has {size:,} bytes instead of {expected.bytes:,}"
        if hash_file(file) != expected.sha256:
            return f"{file.name} has the right size but other bytes than were written"
    except FileNotFoundError:
        return f"{file.name} is missing"
    except OSError as error:
        return f"{file.name} cannot be read ({error.strerror})"
    return None
