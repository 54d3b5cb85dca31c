"""Weights of a Hugging Face directory, read and written one tensor at a time.

A safetensors file is an 8-byte length, a JSON header with name, dtype, shape and byte range of every tensor, and the bytes.
Shapes are known beforehand, so the header is written first and the tensors follow as they come.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from megatron_octo.artifacts import write_json
from megatron_octo.errors import ArtifactError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}

Shapes = Mapping[str, tuple[int, ...]]


class SafetensorsReader:
    """The tensors of a directory, single file or sharded with an index. Raises `ArtifactError` naming the file."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files = _weight_map(directory)

    def check(self, shapes: Shapes, *, copies: Mapping[str, str]) -> None:
        """Compare with what should be there.

        Args:
            copies: tensors that may be there besides, each with the tensor it must equal.

        Raises:
            ArtifactError: lists missing and unexpected tensors, or names one of another shape or a copy that differs.
        """
        missing = sorted(shapes.keys() - self._files.keys())
        unexpected = sorted(self._files.keys() - shapes.keys() - copies.keys())
        if missing or unexpected:
            raise ArtifactError(
                f"{self._directory} does not hold the tensors its config.json describes; "
                f"missing: {', '.join(missing) or 'none'}; unexpected: {', '.join(unexpected) or 'none'}"
            )
        for name, shape in shapes.items():
            with self._open(name) as file:
                found = tuple(file.get_slice(name).get_shape())
            if found != shape:
                raise ArtifactError(f"{self._directory}: {name} is {list(found)}, its config.json says {list(shape)}")

        for copy, original in copies.items():
            if copy in self._files and not torch.equal(self.read(copy), self.read(original)):
                raise ArtifactError(
                    f"{self._directory}: config.json ties {copy} to {original}, and the two differ; it should say "
                    "tie_word_embeddings false"
                )

    def read(self, name: str) -> Tensor:
        with self._open(name) as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def _open(self, name: str) -> Any:
        return _open(self._directory / self._files[name])


def write_safetensors(
    directory: Path, *, shapes: Shapes, tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype, max_shard_bytes: int
) -> None:
    """Write tensors that arrive in the order of `shapes`; with an index when one file would exceed `max_shard_bytes`."""
    sizes = {name: _num_bytes(shape, dtype) for name, shape in shapes.items()}
    groups = _group(sizes, max_shard_bytes)
    arriving = iter(tensors)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(groups, start=1):
        file = SINGLE if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        _write_file(directory / file, {name: shapes[name] for name in names}, arriving, dtype)
        weight_map |= dict.fromkeys(names, file)
    if len(groups) > 1:
        write_json(directory / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map})


def _write_file(path: Path, shapes: Shapes, arriving: Iterator[tuple[str, Tensor]], dtype: torch.dtype) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as stream:
        stream.write(_header(shapes, dtype))
        for expected, shape in shapes.items():
            name, tensor = next(arriving)
            assert (name, tuple(tensor.shape)) == (expected, shape), (name, tensor.shape, expected, shape)
            data = tensor.to(dtype).contiguous().view(-1).view(torch.uint8)
            stream.write(data.numpy().data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def _header(shapes: Shapes, dtype: torch.dtype) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + _num_bytes(shape, dtype)
        entries[name] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    # The bytes that follow begin at a multiple of eight.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _group(sizes: Mapping[str, int], max_bytes: int) -> list[list[str]]:
    """Names in files of at most `max_bytes`; a larger tensor gets a file of its own."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > max_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups


def _num_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return torch.Size(shape).numel() * dtype.itemsize


def _weight_map(directory: Path) -> dict[str, str]:
    index = directory / INDEX
    if index.exists():
        try:
            files: dict[str, str] = json.loads(index.read_text())["weight_map"]
        except (json.JSONDecodeError, KeyError) as error:
            raise ArtifactError(f"{index} cannot be read ({error}); fetch the model again") from error
        return files
    if not (directory / SINGLE).exists():
        raise ArtifactError(f"{directory} has neither {SINGLE} nor {INDEX}; name a directory with safetensors weights")
    with _open(directory / SINGLE) as file:
        return dict.fromkeys(file.keys(), SINGLE)


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"cannot read {file}: {error}; fetch or write it again") from error
