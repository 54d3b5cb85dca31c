"""Weights of a Hugging Face directory: which bytes of which file are which tensor, and the files of one that is to be written."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from megatron_octo.conversion import check, hf_files, layout, plan, safetensors_header
from megatron_octo.conversion.dtypes import FP32
from megatron_octo.conversion.hf_files import INDEX, SINGLE
from megatron_octo.conversion.plan import Box, OutputFile, Run, Stored, Wanted
from megatron_octo.conversion.safetensors_header import FORMATS
from megatron_octo.conversion.sources import Sources
from megatron_octo.errors import ArtifactError, listed

Shapes = Mapping[str, tuple[int, ...]]


class HfWeights:
    """The tensors of a directory, found by their headers.

    Raises:
        ArtifactError: there are none, or a file is missing, cut off or damaged; names it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._tensors = hf_files.tensors(directory)

    def require(self, shapes: Shapes, *, copies: Mapping[str, str]) -> None:
        """Compare with what should be there.

        Args:
            copies: tensors that may be there besides, each with the tensor it must equal.

        Raises:
            ArtifactError: lists missing and unexpected tensors, or names those that are quantised, of another shape, or a copy that
                differs.
        """
        there = [name for name in self._tensors if not layout.is_computed(name)]
        self._require_formats(there)
        self._require_names(there, shapes, copies)
        present = {copy: original for copy, original in copies.items() if copy in self._tensors}
        self._require_shapes({**shapes, **{copy: shapes[original] for copy, original in present.items()}})
        for copy, original in present.items():
            if not _equal(self.stored(copy), self.stored(original)):
                raise ArtifactError(
                    f"{self._directory}: config.json ties {copy} to {original}, and the two differ; it should say "
                    "tie_word_embeddings false"
                )

    def stored(self, name: str) -> Stored:
        """A tensor that was required."""
        tensor = self._tensors[name]
        if tensor.stride is None:
            raise ArtifactError(f"{tensor.file}: {name} is stored transposed; write it again as a contiguous tensor")
        dtype, rows, columns = FORMATS[tensor.dtype], tensor.shape[0], math.prod(tensor.shape[1:])
        box = Box(tensor.file, tensor.offset, 0, 0, rows, columns, tensor.stride * dtype.itemsize)
        return plan.stored(name, tensor.shape, dtype, (box,))

    def _require_formats(self, names: Sequence[str]) -> None:
        others = [f"{name} ({self._tensors[name].dtype})" for name in names if self._tensors[name].dtype not in FORMATS]
        if others:
            raise ArtifactError(
                f"{self._directory} holds numbers that are not weights in {', '.join(FORMATS)}: {listed(others)}; "
                "quantised models are not converted, name the model this one was made from"
            )

    def _require_names(self, there: Sequence[str], shapes: Shapes, copies: Mapping[str, str]) -> None:
        missing = [name for name in shapes if name not in self._tensors]
        unexpected = [name for name in there if name not in shapes and name not in copies]
        if missing or unexpected:
            raise ArtifactError(
                f"{self._directory} does not hold the tensors its config.json describes; "
                f"missing: {listed(missing)}; unexpected: {listed(unexpected)}{_hint(missing, unexpected)}"
            )

    def _require_shapes(self, shapes: Shapes) -> None:
        found = {name: self._tensors[name].shape for name in shapes}
        others = [
            f"{name} is {list(found[name])}, not {list(shape)}"
            for name, shape in shapes.items()
            if found[name] != shape
        ]
        if others:
            raise ArtifactError(f"{self._directory} is not the model its config.json describes: {listed(others)}")


def files(tensors: Sequence[Wanted], *, max_shard_bytes: int) -> tuple[list[OutputFile], dict[str, bytes]]:
    """The safetensors files of a model in the order of its tensors, and the index by its name when there are several."""
    groups = _groups(tensors, max_shard_bytes)
    if len(groups) == 1:
        return [_file(SINGLE, groups[0])], {}
    names = [f"model-{number:05d}-of-{len(groups):05d}.safetensors" for number in range(1, len(groups) + 1)]
    index = {
        "metadata": {
            "total_parameters": sum(math.prod(wanted.shape) for wanted in tensors),
            "total_size": sum(wanted.num_bytes for wanted in tensors),
        },
        "weight_map": {wanted.name: name for name, group in zip(names, groups, strict=True) for wanted in group},
    }
    # As transformers writes it.
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    return [_file(name, group) for name, group in zip(names, groups, strict=True)], {SINGLE + INDEX: text.encode()}


def _groups(tensors: Sequence[Wanted], max_bytes: int) -> list[list[Wanted]]:
    """Files of at most `max_bytes`; a larger tensor gets a file of its own."""
    groups: list[list[Wanted]] = [[]]
    filled = 0
    for wanted in tensors:
        if groups[-1] and filled + wanted.num_bytes > max_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(wanted)
        filled += wanted.num_bytes
    return groups


def _file(name: str, tensors: Sequence[Wanted]) -> OutputFile:
    header = safetensors_header.written(tensors)
    placed, offset = [], len(header)
    for wanted in tensors:
        placed.append((offset, wanted))
        offset += wanted.num_bytes
    return OutputFile(name=name, size=offset, literals={0: header}, tensors=tuple(placed))


def _equal(one: Stored, other: Stored) -> bool:
    """Whether two tensors of one shape hold the same numbers."""
    # every number of the others is one of fp32
    dtype = one.dtype if one.dtype == other.dtype else FP32
    left, right = (Wanted(it.name, it.shape, dtype, (Run(it, 0, 0, it.rows),)) for it in (one, other))
    with Sources() as sources:
        return check.equal(sources, left, right)


def _hint(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    """What to do about the usual ways of a model to have other tensors."""
    if any(".lora_" in name for name in unexpected):
        return "; merge the adapter (lora) into the model first"
    if missing and unexpected:
        wrapped = next((name for name in unexpected if name.endswith(f".{missing[0]}")), None)
        if wrapped is not None:
            return f"; its names begin with '{wrapped.removesuffix(missing[0])}': save the language model inside it on its own first"
    return ""
