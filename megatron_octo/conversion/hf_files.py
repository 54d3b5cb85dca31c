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
#: Patterns of names, what such a directory holds, and what to do.
_OTHER_FORMATS = (
    (
        ("adapter_config.json", "adapter_model.*"),
        "an adapter, not a model",
        "merge it into its base model (PeftModel.merge_and_unload), save that and convert it",
    ),
    (
        ("consolidated.*.pth", "params.json"),
        "Meta's original files",
        "name the same model in Hugging Face's format; on the Hub it lies one directory above these",
    ),
    (
        ("*.gguf",),
        "a model for llama.cpp",
        "its numbers may be rounded: name the Hugging Face directory it was made from",
    ),
)


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
    refuse_other_formats(directory)
    raise ArtifactError(
        f"{directory} has no weights: neither {SINGLE} nor {TORCH_SINGLE}, nor an index of several; name a model directory"
    )


def refuse_other_formats(directory: Path) -> None:
    """Raises `ArtifactError` for a directory that holds a model as other tools have it, and says how to go on from there."""
    for patterns, what, then in _OTHER_FORMATS:
        if found := sorted(path.name for pattern in patterns for path in directory.glob(pattern)):
            raise ArtifactError(f"{directory} holds {what} ({listed(found)}); {then}")


def refuse_pointer(file: Path) -> None:
    """Raises `ArtifactError` for a file whose content Git LFS has not fetched."""
    with file.open("rb") as stream:
        if stream.read(len(LFS_MAGIC)) == LFS_MAGIC:
            raise ArtifactError(f"{file} is a pointer of Git LFS, not the file; fetch it with `git lfs pull`")


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
    refuse_pointer(file)
    return {
        name: FileTensor(file, entry.dtype, entry.shape, entry.first, math.prod(entry.shape[1:]))
        for name, entry in safetensors_header.read(file).items()
    }


def _read_torch(file: Path) -> dict[str, FileTensor]:
    refuse_pointer(file)
    if not _is_zip(file):
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


def _is_zip(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(ZIP_MAGIC)) == ZIP_MAGIC


def _stride(ref: TensorRef) -> int | None:
    """Numbers from row to row; None unless the numbers of a row lie side by side."""
    expected = 1
    for size, stride in zip(reversed(ref.shape[1:]), reversed(ref.strides[1:]), strict=True):
        if size != 1 and stride != expected:
            return None
        expected *= size
    # An expanded tensor has one row, and a stride of 0.
    return ref.strides[0] if ref.strides and ref.strides[0] >= expected else None
