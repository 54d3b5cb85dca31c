"""A checkpoint's way onto the disk: written under a hidden name, renamed when all of it is there, `latest` moved last.

A kill at any moment leaves `latest` naming a complete checkpoint: what has a hidden name counts for nothing, and the next run
removes it. No torch here.
"""

import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from megatron_octo import checksums
from megatron_octo.artifacts import sync_directory
from megatron_octo.checksums import Checksum

LATEST = "latest"


def checkpoint_name(step: int) -> str:
    return f"iter_{step:07d}"


def step_of(name: str) -> int:
    return int(name.removeprefix("iter_"))


def complete_ones(checkpoints: Path) -> list[str]:
    """Names of the complete checkpoints, the oldest first."""
    return sorted(path.name for path in checkpoints.glob("iter_*"))


def named_latest(checkpoints: Path) -> str | None:
    """What `latest` says, None before the first checkpoint."""
    pointer = checkpoints / LATEST
    return pointer.read_text().strip() if pointer.exists() else None


def make_partial(checkpoints: Path, step: int) -> Path:
    """An empty directory of a name never used: writers of a killed run may still be at work in theirs."""
    partial = _hidden(checkpoints, checkpoint_name(step))
    partial.mkdir(parents=True)
    return partial


def remove_leftovers(checkpoints: Path) -> None:
    """Remove what killed runs were writing or removing."""
    for leftover in checkpoints.glob(".iter_*"):
        shutil.rmtree(leftover, ignore_errors=True)


def publish(partial: Path, step: int, known: Mapping[str, Checksum]) -> int:
    """Give a directory that is all written its name and point `latest` at it. Returns its bytes.

    Args:
        known: checksums of the files that their writers forced to the disk already.
    """
    for file in partial.iterdir():
        if file.name not in known:
            _sync_file(file)
    total_bytes = checksums.write(partial, known)  # and forces itself and the directory to the disk
    final = partial.parent / checkpoint_name(step)
    if final.exists():  # left by a run that was killed before `latest` moved, or given up for an earlier one
        _remove(final)
    os.replace(partial, final)
    sync_directory(final.parent)
    _point_latest_at(final)
    return total_bytes


def prune(checkpoints: Path, *, keep: int, keep_every: int | None) -> None:
    """Remove all but the newest `keep`, those at multiples of `keep_every` steps, and the one `latest` names."""
    names = complete_ones(checkpoints)
    stay = {*names[-keep:], named_latest(checkpoints)}
    for name in names:
        if name not in stay and (keep_every is None or step_of(name) % keep_every):
            _remove(checkpoints / name)


def _hidden(checkpoints: Path, name: str) -> Path:
    return checkpoints / f".{name}.{uuid.uuid4().hex[:8]}.partial"


def _remove(checkpoint: Path) -> None:
    """Under a hidden name first, so that a kill meanwhile leaves nothing that looks complete."""
    hidden = _hidden(checkpoint.parent, checkpoint.name)
    os.replace(checkpoint, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _point_latest_at(checkpoint: Path) -> None:
    pointer = checkpoint.parent / LATEST
    temporary = checkpoint.parent / f".{LATEST}.tmp"
    temporary.write_text(checkpoint.name + "\n")
    _sync_file(temporary)
    os.replace(temporary, pointer)
    sync_directory(checkpoint.parent)


def _sync_file(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
