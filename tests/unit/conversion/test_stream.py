import os
import pickle
from pathlib import Path

import pytest
import torch

from megatron_octo.conversion.stream import LazyTensor, TorchDistReader, write_torch_dist
from megatron_octo.errors import ArtifactError

STACKED = torch.arange(24.0).reshape(3, 2, 4)
FLAT = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)


def write(directory: Path) -> Path:
    write_torch_dist(
        directory,
        {
            "stacked": LazyTensor((3, 2, 4), torch.float32, 3, lambda layer: STACKED[layer]),
            "flat": LazyTensor((2,), torch.bfloat16, None, lambda _: FLAT),
        },
    )
    return directory


def test_reads_back_whole_and_by_layer(tmp_path: Path) -> None:
    reader = TorchDistReader(write(tmp_path / "checkpoint"))
    assert torch.equal(reader.read("stacked"), STACKED)
    assert torch.equal(reader.read("stacked", 2), STACKED[2])
    assert torch.equal(reader.read("flat"), FLAT)
    assert reader.read("flat").dtype == torch.bfloat16


def test_same_tensors_same_bytes(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one"), write(tmp_path / "two")
    assert (one / ".metadata").read_bytes() == (two / ".metadata").read_bytes()
    assert (one / "__0_0.distcp").read_bytes() == (two / "__0_0.distcp").read_bytes()


def test_a_cut_off_file_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "checkpoint") / "__0_0.distcp"
    file.write_bytes(file.read_bytes()[:100])
    reader = TorchDistReader(file.parent)
    with pytest.raises(ArtifactError, match=r"__0_0\.distcp ends before"):
        reader.read("stacked")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "checkpoint") / "__0_0.distcp"
    file.unlink()
    with pytest.raises(ArtifactError, match=r"cannot read .*__0_0\.distcp: No such file"):
        TorchDistReader(file.parent).read("flat")


def test_missing_chunks_are_counted(tmp_path: Path) -> None:
    reader = TorchDistReader(write(tmp_path / "checkpoint"))
    reader.tensors["stacked"].chunks.pop()
    with pytest.raises(ArtifactError, match="16 of 24 numbers of stacked are there"):
        reader.read("stacked")


def test_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no torch_dist checkpoint"):
        TorchDistReader(tmp_path)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("broken-in",)


def test_metadata_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ArtifactError, match=r"names posix\.mkdir, which no checkpoint needs"):
        TorchDistReader(tmp_path)
    assert not (tmp_path / "broken-in").exists()
