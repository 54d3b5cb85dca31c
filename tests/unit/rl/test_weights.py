"""Two Hugging Face directories compared tensor by tensor."""

from pathlib import Path

import torch
from safetensors.torch import save_file

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
