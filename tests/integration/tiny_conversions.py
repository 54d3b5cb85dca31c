"""Conversions as the tests of several files start them, and the weights that come out."""

import json
from pathlib import Path
from typing import Any

import tiny_training
import torch
from safetensors.torch import load_file

from megatron_octo.conversion import hf_config
from megatron_octo.conversion import run as conversion
from megatron_octo.conversion.config import Conversion, Direction
from megatron_octo.training.config import MidTraining


def write_corpora(root: Path) -> Path:
    """The corpora of `phase`, below `root`, which is returned."""
    for seed, corpus in enumerate(("prose", "code")):
        tiny_training.write_shards(root / "shards", corpus, windows=40, seed=seed)
    return root


def from_hf(source: Path, out: Path, **fields: Any) -> Path:
    conversion.run(Conversion(direction=Direction.FROM_HF, source=source, **fields), out, False)
    return out


def to_hf(source: Path, out: Path, **fields: Any) -> Path:
    conversion.run(Conversion(direction=Direction.TO_HF, source=source, **fields), out, False)
    return out


def phase(model: Path, *, learning_rate: float, steps: int = 4, **changes: Any) -> MidTraining:
    """A few steps of a Hugging Face directory's architecture."""
    return tiny_training.phase(
        model.name,
        steps=steps,
        model=hf_config.read_config(model),
        schedule=tiny_training.constant(learning_rate),
        **changes,
    )


def weights(directory: Path) -> dict[str, torch.Tensor]:
    """All tensors of a Hugging Face directory, whatever files they lie in."""
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}


def assert_same_weights(one: Path, two: Path) -> None:
    assert_same(weights(one), weights(two))


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left
    assert left.keys() == right.keys()
    assert [name for name in left if left[name].dtype != right[name].dtype] == []
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def change_model(stage: Path, **changes: Any) -> None:
    """Have a stage say that its model is another one."""
    file = stage / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
