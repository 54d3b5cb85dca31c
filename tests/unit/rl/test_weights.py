"""Two Hugging Face directories compared tensor by tensor."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from megatron_octo.errors import ArtifactError
from megatron_octo.rl import weights


def write(directory: Path, **files: dict[str, torch.Tensor]) -> Path:
    directory.mkdir()
    for name, tensors in files.items():
        save_file(tensors, directory / f"{name}.safetensors")
    return directory


def test_precision_and_the_cut_into_files_do_not_matter(tmp_path: Path) -> None:
    a, b = torch.full((2,), 0.1), torch.ones(3)
    before = write(tmp_path / "before", model={"a": a, "b": b})
    same = {"a": a.bfloat16()}, {"b": b.bfloat16(), "head": torch.zeros(1)}
    assert not weights.differ(before, write(tmp_path / "after", one=same[0], two=same[1]))


def test_one_changed_entry_is_a_difference(tmp_path: Path) -> None:
    before = write(tmp_path / "before", model={"a": torch.zeros(2), "b": torch.ones(3)})
    after = write(tmp_path / "after", model={"a": torch.zeros(2), "b": torch.tensor([1.0, 1.0, 1.5])})
    assert weights.differ(before, after)


def test_models_without_a_common_tensor_cannot_be_compared(tmp_path: Path) -> None:
    """Which is not the same as being equal."""
    before = write(tmp_path / "before", model={"a": torch.zeros(2)})
    after = write(tmp_path / "after", model={"model.a": torch.zeros(2)})
    with pytest.raises(ArtifactError, match=r"\(1 tensors\) .* none in common"):
        weights.differ(before, after)


def test_a_starting_model_of_bin_files_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"has no \*.safetensors.*save it again"):
        weights.require_comparable(tmp_path)
    write(tmp_path / "other", model={"a": torch.zeros(2)})
    weights.require_comparable(tmp_path / "other")
