"""Two checkpoints are compared by their bytes."""

from pathlib import Path

import numpy as np
import pytest

from megatron_octo.conversion import check
from megatron_octo.conversion.dtypes import FP32, Dtype
from megatron_octo.conversion.plan import Box, Run, Stored, Wanted
from megatron_octo.conversion.sources import BLOCK_BYTES
from megatron_octo.errors import ArtifactError

#: Several blocks of 1,024 columns.
ROWS = 2 * BLOCK_BYTES // 4096 + 5


def write(file: Path, rows: int = ROWS, *, change: int | None = None) -> Path:
    numbers = np.arange(rows * 1024, dtype=np.float32)
    if change is not None:
        numbers[change] += 1
    file.write_bytes(numbers.tobytes())
    return file


def tensor(file: Path, name: str = "w", rows: int = ROWS, *, dtype: Dtype = FP32) -> Wanted:
    box = Box(file, 0, 0, 0, rows, 1024, 4096)
    stored = Stored("source", (rows, 1024), FP32, (box,))
    return Wanted(name, stored.shape, dtype, (Run(stored, 0, 0, rows),))


def compare(one: list[Wanted], other: list[Wanted], done: list[float] | None = None) -> list[str]:
    def advance(amount: float = 1, note: str = "") -> None:
        if done is not None:
            done.append(amount)

    return check.differing(one, other, workers=2, advance=advance)


@pytest.mark.parametrize("place", [0, ROWS * 1024 // 2, ROWS * 1024 - 1])
def test_a_number_that_differs_is_found_anywhere(tmp_path: Path, place: int) -> None:
    good, bad = write(tmp_path / "good"), write(tmp_path / "bad", change=place)
    done: list[float] = []
    found = compare([tensor(good, "v"), tensor(good, "w")], [tensor(good, "v"), tensor(bad, "w")], done)
    assert found == ["w"]
    assert done == [ROWS * 4096, ROWS * 4096]


def test_runs_are_compared_as_one_tensor(tmp_path: Path) -> None:
    """Another cut of the same rows is the same tensor."""
    whole = tensor(write(tmp_path / "whole"))
    stored = whole.runs[0].source
    halves = Wanted("w", whole.shape, FP32, (Run(stored, 0, 0, 7), Run(stored, 7, 7, ROWS - 7)))
    swapped = Wanted("w", whole.shape, FP32, (Run(stored, 7, 0, ROWS - 7), Run(stored, 0, ROWS - 7, 7)))
    assert compare([whole], [halves]) == []
    assert compare([whole], [swapped]) == ["w"]


def test_a_cut_off_file_is_named(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "good"), write(tmp_path / "bad", ROWS - 1)
    with pytest.raises(ArtifactError, match=rf"{bad} ends before source"):
        compare([tensor(good)], [tensor(bad)])
