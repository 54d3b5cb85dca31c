import os
from pathlib import Path

import pytest

from megatron_octo.conversion import plan
from megatron_octo.conversion.dtypes import BF16, FP32
from megatron_octo.conversion.plan import Box, Copy, OutputFile, Run, Stored, Wanted
from megatron_octo.errors import ArtifactError

FILE = Path("file")


def box(row: int, column: int, rows: int, columns: int, *, offset: int = 0) -> Box:
    return Box(FILE, offset, row, column, rows, columns, columns * 2)


def split_by_column() -> Stored:
    """[4, 6] in bf16: columns 0 to 3 at byte 100, 4 and 5 at byte 200."""
    return plan.stored("weight", (4, 6), BF16, (box(0, 0, 4, 4, offset=100), box(0, 4, 4, 2, offset=200)))


def spelled(copy: Copy) -> tuple[int, ...]:
    return copy.offset, copy.length, copy.stride, copy.count, copy.row, copy.column


def test_rows_of_a_tensor_that_ranks_split_by_column() -> None:
    wanted = Wanted("out", (4, 6), BF16, (Run(split_by_column(), 0, 0, 4),))
    assert [spelled(copy) for copy in wanted.copies(1, 3)] == [(108, 8, 8, 2, 0, 0), (204, 4, 4, 2, 0, 4)]


def test_rows_of_a_tensor_that_ranks_split_by_row() -> None:
    halves = plan.stored("weight", (4, 3), BF16, (box(0, 0, 2, 3, offset=0), box(2, 0, 2, 3, offset=50)))
    wanted = Wanted("out", (4, 3), BF16, (Run(halves, 0, 0, 4),))
    assert [spelled(copy) for copy in wanted.copies(1, 3)] == [(6, 6, 6, 1, 0, 0), (50, 6, 6, 1, 1, 0)]


def test_runs_take_rows_to_other_places() -> None:
    source = plan.stored("weight", (4, 2), BF16, (box(0, 0, 4, 2),))
    # the two halves change places
    wanted = Wanted("out", (4, 2), BF16, (Run(source, 2, 0, 2), Run(source, 0, 2, 2)))
    assert [spelled(copy) for copy in wanted.copies(0, 4)] == [(8, 4, 4, 2, 0, 0), (0, 4, 4, 2, 2, 0)]
    assert [spelled(copy) for copy in wanted.copies(3, 4)] == [(4, 4, 4, 1, 0, 0)]


def test_pieces_of_a_wider_storage_are_strided() -> None:
    view = Box(FILE, 10, 0, 0, 3, 2, 100)
    wanted = Wanted("out", (3, 2), BF16, (Run(Stored("weight", (3, 2), BF16, (view,)), 0, 0, 3),))
    (copy,) = wanted.copies(1, 3)
    assert spelled(copy) == (110, 4, 100, 2, 0, 0)
    assert not copy.contiguous


def test_missing_numbers_are_counted() -> None:
    with pytest.raises(ArtifactError, match="weight: 8 of 24 numbers are there; the checkpoint is incomplete"):
        plan.stored("weight", (4, 6), BF16, (box(0, 0, 4, 2),))


@pytest.mark.parametrize(
    "boxes",
    [
        (box(0, 0, 2, 6), box(0, 0, 2, 6)),  # twice the same
        (box(0, 0, 2, 6), box(1, 0, 2, 6)),
        (box(0, 0, 4, 3), box(0, 2, 4, 3)),
        (box(0, 0, 4, 3), box(0, 4, 4, 3)),  # beyond the last column
        (box(0, 0, 2, 6), box(3, 0, 2, 6)),  # beyond the last row
    ],
)
def test_chunks_that_do_not_cover_a_tensor_are_refused(boxes: tuple[Box, ...]) -> None:
    with pytest.raises(ArtifactError, match="its 2 chunks overlap"):
        plan.stored("weight", (4, 6), BF16, boxes)


def test_fp8_parameters_become_bf16_by_default() -> None:
    scaled = Stored("weight", (1, 2), BF16, (Box(FILE, 0, 0, 0, 1, 2, 2, scale=0.5),))
    assert scaled.natural_dtype is BF16
    assert Stored("weight", (1, 2), FP32, (Box(FILE, 0, 0, 0, 1, 2, 8),)).natural_dtype is FP32


def test_the_format_of_most_bytes_prevails() -> None:
    source = Stored("weight", (9, 9), BF16, (box(0, 0, 9, 9),))
    tensors = [
        Wanted("norm", (1, 9), FP32, (Run(source, 0, 0, 1),)),
        Wanted("weight", (9, 9), BF16, (Run(source, 0, 0, 9),)),
    ]
    assert plan.prevailing_dtype(tensors) is BF16


def test_a_file_is_known_by_its_plan_and_its_sources(tmp_path: Path) -> None:
    file = tmp_path / "source"
    file.write_bytes(bytes(8))

    def output(row: int, *, literal: bytes = b"header") -> OutputFile:
        source = Stored("weight", (4, 1), BF16, (Box(file, 0, 0, 0, 4, 1, 2),))
        wanted = Wanted("out", (2, 1), BF16, (Run(source, row, 0, 2),))
        return OutputFile("out", 10, {0: literal}, ((6, wanted),))

    first = output(0).digest
    assert output(0).digest == first
    assert len({first, output(1).digest, output(0, literal=b"Header").digest}) == 3
    os.utime(file, (1, 1))
    assert output(0).digest != first
