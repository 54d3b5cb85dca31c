"""The files of Hugging Face weights, and which tensors lie where in them: safetensors and pytorch_model*.bin, each as a single file
or several with an index. Reads headers only.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from megatron_octo.conversion import safetensors_header, torch_archive
from megatron_octo.conversion.safetensors_header import unreadable
from megatron_octo.conversion.torch_archive import TensorRef
from megatron_octo.errors import ArtifactError, listed

SINGLE = "model.safetensors"
TORCH_SINGLE = "pytorch_model.bin"
#: Behind the name of the single file.
INDEX = ".index.json"
ZIP_MAGIC = b"PK\x03\x04"
LFS_MAGIC = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class FileTensor:
    """A tensor as it lies in a file."""

    file: Path
    #: As safetensors spells it.
    dtype: str
    shape: tuple[int, ...]
    #: Of the first number, bytes.
    offset: int
    #: From one row to the next, numbers; None where the numbers of a row do not lie side by side.
    stride: int | None


def tensors(directory: Path) -> dict[str, FileTensor]:
    """All tensors by name, from the files transformers would choose.

    Raises:
        ArtifactError: there are none, or a file is missing, cut off or damaged; names it.
    """
    for single, read in ((SINGLE, _read_safetensors), (TORCH_SINGLE, _read_torch)):
        if (directory / single).exists():
            return read(directory / single)
        if (directory / f"{single}{INDEX}").exists():
            return _indexed(directory / f"{single}{INDEX}", read)
    if any(directory.glob("adapter_model.*")):
        raise ArtifactError(
            f"{directory} holds an adapter, not a model; merge it into the model it was trained on first"
        )
    raise ArtifactError(
        f"{directory} has no weights: neither {SINGLE} nor {TORCH_SINGLE}, nor an index of several; name a model directory"
    )


def _indexed(index: Path, read: Callable[[Path], dict[str, FileTensor]]) -> dict[str, FileTensor]:
    weight_map = _weight_map(index)
    names = sorted(set(weight_map.values()))
    absent = [name for name in names if not (index.parent / name).exists()]
    if absent:
        raise ArtifactError(
            f"{index.parent} lacks files that its {index.name} names: {listed(absent)}; fetch them again"
        )
    found = {name: read(index.parent / name) for name in names}
    lacking = [f"{tensor} (in {name})" for tensor, name in weight_map.items() if tensor not in found[name]]
    if lacking:
        raise ArtifactError(f"{index} names tensors that are not there: {listed(lacking)}; fetch the model again")
    # Tensors that no index names are looked at, too, as transformers does: they may be unexpected.
    return {tensor: place for file in found.values() for tensor, place in file.items()} | {
        tensor: found[name][tensor] for tensor, name in weight_map.items()
    }


def _weight_map(index: Path) -> dict[str, str]:
    try:
        found = json.loads(index.read_text())["weight_map"]
        return {str(tensor): str(name) for tensor, name in found.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise unreadable(index, f"it is no index of weights ({error!r})") from error


def _read_safetensors(file: Path) -> dict[str, FileTensor]:
    _first_bytes(file)
    return {
        name: FileTensor(file, entry.dtype, entry.shape, entry.first, math.prod(entry.shape[1:]))
        for name, entry in safetensors_header.read(file).items()
    }


def _read_torch(file: Path) -> dict[str, FileTensor]:
    if _first_bytes(file)[: len(ZIP_MAGIC)] != ZIP_MAGIC:
        raise ArtifactError(
            f"{file} is not in the format that torch writes since 1.6; write it again: "
            f"torch.save(torch.load('{file.name}', weights_only=True), '{file.name}')"
        )
    found = torch_archive.read(file)
    if not isinstance(found, dict) or not all(isinstance(ref, TensorRef) for ref in found.values()):
        raise unreadable(file, "it holds other things than tensors by name")
    return {
        name: FileTensor(file, ref.dtype.safetensors, ref.shape, ref.offset, _stride(ref))
        for name, ref in found.items()
    }


def _first_bytes(file: Path) -> bytes:
    with file.open("rb") as stream:
        first = stream.read(len(LFS_MAGIC))
    if first == LFS_MAGIC:
        raise ArtifactError(f"{file} is a pointer of Git LFS, not the weights; fetch them with `git lfs pull`")
    return first


def _stride(ref: TensorRef) -> int | None:
    """Numbers from row to row; None unless the numbers of a row lie side by side."""
    expected = 1
    for size, stride in zip(reversed(ref.shape[1:]), reversed(ref.strides[1:]), strict=True):
        if size != 1 and stride != expected:
            return None
        expected *= size
    # An expanded tensor has one row, and a stride of 0.
    return ref.strides[0] if ref.strides and ref.strides[0] >= expected else None
