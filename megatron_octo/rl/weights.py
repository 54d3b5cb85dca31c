"""Whether training changed a model: OpenRLHF writes the untouched one as readily, and says nothing."""

from pathlib import Path

import torch
from safetensors import safe_open

from megatron_octo.errors import ArtifactError

FILES = "*.safetensors"


def require_comparable(directory: Path) -> None:
    """Raises `ArtifactError` for a model that `differ` cannot read, such as one of *.bin files: better before training than after."""
    if not any(directory.glob(FILES)):
        raise ArtifactError(
            f"{directory} has no {FILES}, with which the trained model is compared at the end; load the model with transformers and "
            "save it again"
        )


def differ(one: Path, other: Path) -> bool:
    """Whether two Hugging Face directories differ in any tensor that both have, a tensor at a time.

    Raises:
        ArtifactError: there is no such tensor.
    """
    first, second = (_tensors(directory) for directory in (one, other))
    common = sorted(first.keys() & second.keys())
    if not common:
        raise ArtifactError(
            f"{one} ({len(first)} tensors) and {other} ({len(second)}) have none in common, so it is not known whether the model was trained"
        )
    return any(_changed(first[name], second[name], name) for name in common)


def _changed(first: Path, second: Path, name: str) -> bool:
    with safe_open(first, "pt") as a, safe_open(second, "pt") as b:
        before, after = a.get_tensor(name), b.get_tensor(name)
    return not torch.equal(before.to(after.dtype), after)


def _tensors(directory: Path) -> dict[str, Path]:
    """File of every tensor by name."""
    found: dict[str, Path] = {}
    for file in sorted(directory.glob(FILES)):
        with safe_open(file, "pt") as tensors:
            found |= dict.fromkeys(tensors.keys(), file)
    return found
