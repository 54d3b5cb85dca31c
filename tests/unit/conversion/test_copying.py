import dataclasses
import errno
import fcntl
import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_octo.conversion import copying, plan, sources
from megatron_octo.conversion.dtypes import BF16, FP16, FP32
from megatron_octo.conversion.plan import Box, OutputFile, Run, Stored, Wanted
from megatron_octo.errors import ArtifactError, ConfigError

#: A row is longer than the smallest block.
ROWS, COLUMNS = 30, 2000
WEIGHT = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(np.float32)


def ignore(_amount: float = 1, _note: str = "") -> None:
    pass


def whole(directory: Path) -> Stored:
    """The weight in one piece, behind ten bytes of something else."""
    (directory / "whole").write_bytes(bytes(10) + WEIGHT.tobytes())
    box = Box(directory / "whole", 10, 0, 0, ROWS, COLUMNS, COLUMNS * 4)
    return plan.stored("weight", WEIGHT.shape, FP32, (box,))


def grid(directory: Path) -> Stored:
    """The weight in four pieces, in files of their own."""
    boxes = []
    for row, rows in ((0, 10), (10, 20)):
        for column, columns in ((0, 1500), (1500, 500)):
            file = directory / f"box-{row}-{column}"
            file.write_bytes(WEIGHT[row : row + rows, column : column + columns].tobytes())
            boxes.append(Box(file, 0, row, column, rows, columns, columns * 4))
    return plan.stored("weight", WEIGHT.shape, FP32, tuple(boxes))


def strided(directory: Path) -> Stored:
    """The weight as the left half of a wider storage."""
    (directory / "wide").write_bytes(np.concatenate([WEIGHT, -WEIGHT], axis=1).tobytes())
    box = Box(directory / "wide", 0, 0, 0, ROWS, COLUMNS, 2 * COLUMNS * 4)
    return plan.stored("weight", WEIGHT.shape, FP32, (box,))


LAYOUTS = [whole, grid, strided]


def output(wanted: Wanted, name: str = "out") -> OutputFile:
    return OutputFile(name, 6 + wanted.num_bytes, {0: b"header"}, ((6, wanted),))


def swapped(source: Stored, dtype: Any = FP32) -> Wanted:
    """Its two halves change places."""
    half = ROWS // 2
    return Wanted("out", WEIGHT.shape, dtype, (Run(source, half, 0, half), Run(source, 0, half, half)))


EXPECTED = np.concatenate([WEIGHT[15:], WEIGHT[:15]])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scratch_bytes", [100, 40_000, 1 << 20])
@pytest.mark.parametrize("block_bytes", [4096, 5 * 4096, 1 << 20])
def test_rows_arrive_where_they_belong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Any, block_bytes: int, scratch_bytes: int
) -> None:
    monkeypatch.setattr(copying, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(sources, "SCRATCH_BYTES", scratch_bytes)
    advanced: list[float] = []
    file = output(swapped(layout(tmp_path)))
    copying.make([file], tmp_path, workers=3, advance=lambda amount=1, note="": advanced.append(amount))
    assert (tmp_path / "out").read_bytes() == b"header" + EXPECTED.tobytes()
    assert sum(advanced) == file.size


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scratch_bytes", [20_000, 1 << 20])
def test_numbers_are_cast_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Any, scratch_bytes: int
) -> None:
    monkeypatch.setattr(sources, "SCRATCH_BYTES", scratch_bytes)
    copying.make([output(swapped(layout(tmp_path), BF16))], tmp_path, workers=2, advance=ignore)
    assert (tmp_path / "out").read_bytes()[6:] == EXPECTED.astype(BF16.numpy).tobytes()


@pytest.mark.parametrize("refuses", ["open", "write"])
def test_file_systems_without_direct_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: str) -> None:
    """Such as tmpfs at opening, or those with larger sectors at the first write."""
    really_open, really_write = os.open, os.pwrite
    direct: set[int] = set()

    def open_(path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT and refuses == "open":
            raise OSError(errno.EINVAL, "no direct writes")
        return really_open(path, flags, mode)

    def write(descriptor: int, data: Any, offset: int) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            direct.add(offset)
            raise OSError(errno.EINVAL, "no direct writes")
        return really_write(descriptor, data, offset)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "pwrite", write)
    monkeypatch.setattr(copying, "BLOCK_BYTES", 4096)  # several workers are refused
    copying.make([output(swapped(whole(tmp_path)))], tmp_path, workers=4, advance=ignore)
    assert (tmp_path / "out").read_bytes()[6:] == EXPECTED.tobytes()
    assert bool(direct) is (refuses == "write")


def test_writes_that_are_cut_short_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really_write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: really_write(descriptor, data[:4096], offset))
    copying.make([output(swapped(grid(tmp_path)))], tmp_path, workers=2, advance=ignore)
    assert (tmp_path / "out").read_bytes()[6:] == EXPECTED.tobytes()


def test_a_finished_file_is_marked_with_its_hash(tmp_path: Path) -> None:
    file = output(swapped(whole(tmp_path)))
    assert copying.finished(file, tmp_path) is None
    copying.make([file], tmp_path, workers=2, advance=ignore)
    mark = copying.finished(file, tmp_path)
    assert mark is not None
    assert (mark.bytes, mark.sha256) == (file.size, copying.artifacts.hash_file(tmp_path / "out"))


def test_a_mark_of_another_plan_or_a_shorter_file_counts_for_nothing(tmp_path: Path) -> None:
    source = whole(tmp_path)
    file, other = output(swapped(source)), output(Wanted("out", WEIGHT.shape, FP32, (Run(source, 0, 0, ROWS),)))
    copying.make([file], tmp_path, workers=2, advance=ignore)
    assert copying.finished(other, tmp_path) is None
    os.truncate(tmp_path / "out", 100)
    assert copying.finished(file, tmp_path) is None
    copying.make([file], tmp_path, workers=2, advance=ignore)
    assert (tmp_path / "out").read_bytes()[6:] == EXPECTED.tobytes()
    (tmp_path / "out.done").write_text(json.dumps({"digest": file.digest}))
    assert copying.finished(file, tmp_path) is None


@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_a_source_that_was_cut_off_meanwhile_is_named(tmp_path: Path, dtype: Any) -> None:
    file = output(swapped(whole(tmp_path), dtype))
    os.truncate(tmp_path / "whole", 1000)
    with pytest.raises(ArtifactError, match="whole ends before weight; the source is cut off"):
        copying.make([file], tmp_path, workers=2, advance=ignore)
    assert copying.finished(file, tmp_path) is None


def test_a_source_that_was_removed_meanwhile_is_named(tmp_path: Path) -> None:
    file = output(swapped(whole(tmp_path)))
    (tmp_path / "whole").unlink()
    with pytest.raises(ArtifactError, match=r"cannot read .*whole: No such file"):
        copying.make([file], tmp_path, workers=2, advance=ignore)


def test_a_source_that_was_replaced_meanwhile_is_named(tmp_path: Path) -> None:
    """Of the same size: half of the file would be of one model, half of another."""
    file = output(swapped(whole(tmp_path)))
    (tmp_path / "other").write_bytes((tmp_path / "whole").read_bytes())
    os.replace(tmp_path / "other", tmp_path / "whole")
    with pytest.raises(ArtifactError, match=r"the source changed while it was converted: .*whole; run it again"):
        copying.make([file], tmp_path, workers=2, advance=ignore)
    assert copying.finished(file, tmp_path) is None


def test_a_half_written_file_takes_what_is_left_of_it(tmp_path: Path) -> None:
    file = output(swapped(whole(tmp_path)))
    assert copying.missing_bytes(file, tmp_path) == file.size
    (tmp_path / "out").write_bytes(bytes(100_000))
    os.sync()
    assert 0 < copying.missing_bytes(file, tmp_path) <= file.size - 90_000
    copying.make([file], tmp_path, workers=2, advance=ignore)
    assert copying.missing_bytes(file, tmp_path) == 0


def test_numbers_that_fp16_does_not_hold_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(np.array([1.0, 1e6], np.float32).tobytes())
    source = plan.stored("weight", (2,), FP32, (Box(tmp_path / "file", 0, 0, 0, 2, 1, 4),))
    wanted = Wanted("out", (2,), FP16, (Run(source, 0, 0, 2),))
    with pytest.raises(ConfigError, match="weight: a number is too large for float16; choose another dtype"):
        copying.make([output(wanted)], tmp_path, workers=1, advance=ignore)


def test_a_failed_file_does_not_undo_the_ones_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "FILES_AT_ONCE", 1)
    good = output(swapped(whole(tmp_path)), "good")
    (tmp_path / "short").write_bytes(b"")
    broken = plan.stored("broken", (2,), FP32, (Box(tmp_path / "short", 0, 0, 0, 2, 1, 4),))
    bad = output(Wanted("bad", (2,), FP32, (Run(broken, 0, 0, 2),)), "bad")
    with pytest.raises(ArtifactError, match="short ends before broken"):
        copying.make([good, bad], tmp_path, workers=2, advance=ignore)
    assert copying.finished(good, tmp_path) is not None
    assert copying.finished(bad, tmp_path) is None


def test_a_mark_does_not_outlive_the_file_it_was_made_for(tmp_path: Path) -> None:
    """Made of one source, half overwritten with another, and the first is back: the old mark would fit again."""
    file = output(swapped(whole(tmp_path)))
    copying.make([file], tmp_path, workers=2, advance=ignore)
    shutil.copy2(tmp_path / "whole", tmp_path / "first")
    (tmp_path / "whole").write_bytes(b"x" * (tmp_path / "whole").stat().st_size)
    other = output(
        swapped(Stored("weight", WEIGHT.shape, FP32, (Box(tmp_path / "whole", 10, 0, 0, ROWS, COLUMNS, COLUMNS * 4),)))
    )
    os.truncate(tmp_path / "whole", 5000)  # the second ends in the middle
    with pytest.raises(ArtifactError):
        copying.make([other], tmp_path, workers=2, advance=ignore)
    assert not copying.mark(file, tmp_path).exists()


def test_bytes_are_on_the_disk_before_the_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = output(swapped(whole(tmp_path)))
    sync, synced = os.fsync, []

    def note(descriptor: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), copying.mark(file, tmp_path).exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    copying.make([file], tmp_path, workers=2, advance=ignore)
    assert (str(tmp_path / "out"), False) in synced


def test_two_processes_with_the_same_share_make_it_once(tmp_path: Path) -> None:
    file = output(swapped(whole(tmp_path)))
    with ThreadPoolExecutor(1) as other:
        with copying._Target(tmp_path / "out", file.size):
            waiting = other.submit(copying.make, [file], tmp_path, workers=1, advance=ignore)
            time.sleep(0.2)
            assert not waiting.done()
            (tmp_path / "out").write_bytes(b"header" + EXPECTED.tobytes())
            made = copying.Mark(digest=file.digest, bytes=file.size, sha256="made by the first")
            copying.mark(file, tmp_path).write_text(json.dumps(dataclasses.asdict(made)))
        waiting.result()
    found = copying.finished(file, tmp_path)
    assert found is not None
    assert found.sha256 == "made by the first"
