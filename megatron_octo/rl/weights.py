"""Whether training changed a model: OpenRLHF writes the untouched one as readily, and says nothing."""

from pathlib import Path

import torch
from safetensors import safe_open


def differ(one: Path, other: Path) -> bool:
    """Whether two Hugging Face directories differ in any tensor that both have, a tensor at a time."""
    first, second = (_tensors(directory) for directory in (one, other))
    for name in sorted(first.keys() & second.keys()):
        with safe_open(first[name], "pt") as a, safe_open(second[name], "pt") as b:
            before, after = a.get_tensor(name), b.get_tensor(name)
            if not torch.equal(before.to(after.dtype), after):
                return True
    return False


def _tensors(directory: Path) -> dict[str, Path]:
    """File of every tensor by name."""
    found: dict[str, Path] = {}
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            found |= dict.fromkeys(tensors.keys(), file)
    return found
