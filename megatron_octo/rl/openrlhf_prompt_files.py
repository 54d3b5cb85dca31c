"""The prompt files of an OpenRLHF run, each going on from the one before: OUT/openrlhf/prompts-<first>-<end>.jsonl.

One is begun at the checkpoint of step <first> (0: at none), where the steps up to <end> need more prompts, or fewer, than the file
before it has: at another response cap, or where `train_steps` or `length_schedule` changed. OpenRLHF's resumed loader skips the rows
it has drawn, so those are in it too; what is left is put where that loader will draw it (openrlhf_order.py says where).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo import jsonl
from megatron_octo.errors import OctoError

Row = Mapping[str, Any]
#: The rows, in order, that the loader resumed from the newest checkpoint draws of a file of so many rows.
Remaining = Callable[[int], Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class PromptFile:
    path: Path
    first_step: int
    end_step: int


def found(directory: Path) -> list[PromptFile]:
    """In the order in which they were begun; the last is the one the run is in."""
    files = [_of(path) for path in directory.glob("prompts-*-*.jsonl")]
    return sorted(files, key=lambda file: file.first_step)


def forget_from(directory: Path, step: int) -> None:
    """Remove those begun at a step or later: their rows follow from the checkpoint of a try that is given up."""
    for file in found(directory):
        if file.first_step >= step:
            file.path.unlink()


def prepare(
    directory: Path,
    sequence: Sequence[Row],
    *,
    end_step: int,
    prompts_per_step: int,
    newest: int | None,
    remaining: Remaining,
) -> Path:
    """The file for the steps up to `end_step`; the one that the run is in where that ends there too.

    Args:
        sequence: the run's rows in order, those of all its steps.
        newest: step of the checkpoint that is gone on from; None starts at the first prompt.
    Raises:
        OctoError: the file that the checkpoint speaks of is gone, or OpenRLHF would draw another number of rows.
    """
    files = found(directory)
    if files and files[-1].end_step == end_step:
        return files[-1].path
    first, length = newest or 0, end_step * prompts_per_step
    forget_from(directory, first)
    rows = sequence[:length] if newest is None else continued(_before(directory), sequence, length, remaining)
    path = directory / f"prompts-{first}-{end_step}.jsonl"
    jsonl.replace(path, rows)
    return path


def continued(before: Sequence[Row], sequence: Sequence[Row], length: int, remaining: Remaining) -> list[Row]:
    """A file of `length` rows of which the resumed loader draws what it has not drawn of `before`, then the rest of `sequence`.

    Raises:
        OctoError: it would draw another number of rows.
    """
    left = list(remaining(len(before)))
    known = {row["label"] for row in before}
    new = [before[place] for place in left] + [row for row in sequence if row["label"] not in known]
    drawn = [row for place, row in enumerate(before) if place not in set(left)]
    places = remaining(length)
    if len(places) != length - len(drawn):
        raise OctoError(
            f"OpenRLHF would draw {len(places)} prompts where {length - len(drawn)} of {length} are left; start the run anew in another "
            "directory"
        )
    at, others = dict(zip(places, new, strict=False)), iter(drawn)
    return [at[place] if place in at else next(others) for place in range(length)]


def _before(directory: Path) -> list[Row]:
    """The rows of which the newest checkpoint has drawn some."""
    files = found(directory)
    if not files:
        raise OctoError(
            f"{directory} has checkpoints and no prompt file; start the run anew in another directory, or pass --force"
        )
    return list(jsonl.read(files[-1].path))


def _of(path: Path) -> PromptFile:
    _, first, end = path.stem.split("-")
    return PromptFile(path=path, first_step=int(first), end_step=int(end))
