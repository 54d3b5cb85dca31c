"""Megatron `torch_dist` checkpoints as plans: where the numbers of every weight lie, and how to lay them out anew. No torch.

A checkpoint is a directory: `.metadata` (a pickle: which chunk of which tensor lies in which file at which offset), `__*.distcp`
(the chunks, each an archive of `torch.save`), `common.pt` and `metadata.json`. Any rank may have written any box of a tensor;
layers are stacked in front ([L, ...]) or have keys of their own.
"""

import dataclasses
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo.conversion import dist_boxes, plan, torch_archive
from megatron_octo.conversion.dist_metadata import METADATA, Chunk, Entry, encode_metadata, read_metadata
from megatron_octo.conversion.dtypes import Dtype
from megatron_octo.conversion.layout import EMBEDDING, LAYERS, OUTPUT, Weight, spell
from megatron_octo.conversion.pickles import Record
from megatron_octo.conversion.plan import Box, OutputFile, Stored, Wanted
from megatron_octo.conversion.torch_archive import TensorRef
from megatron_octo.errors import ArtifactError, listed

COMMON = "common.pt"
BACKEND_FILE = "metadata.json"
BACKEND = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}
#: fp32 copies of the weights, as Megatron's optimizers name them: `param` where the distributed one gathered its state before
#: saving ("fully_reshardable"), else `fp32_param`; numbered where there are several optimizers.
_MASTER = re.compile(r"(chained_\d+\.)?optimizer\.state\.(fp32_param|param)\.")
_OPTIMIZER = re.compile(r"(chained_\d+\.)?optimizer\.")
#: Their rows are padded to what divides by the ranks.
_PADDED = (EMBEDDING, OUTPUT)
#: Megatron-LM pads to a multiple of 128 rows per tensor-parallel rank; more than 64 of those is a guess at what nobody has.
_MOST_PADDING = 128 * 64


@dataclass(frozen=True)
class _Part:
    """Rows of a weight as the checkpoint names them: all of them, or with `singleton_local_shards` gate or up."""

    name: str
    entry: Entry
    #: None where the layer is in the name.
    layer: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.entry.shape if self.layer is None else self.entry.shape[1:]

    def chunks(self) -> Iterator[Chunk]:
        for chunk in self.entry.chunks:
            if self.layer is None or dist_boxes.holds(self.entry, chunk, self.layer):
                yield chunk


class Checkpoint:
    """The tensors of a checkpoint, whatever layout wrote it.

    Raises:
        ArtifactError: `directory` is no torch_dist checkpoint.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._entries = read_metadata(
            directory / METADATA, lambda key: bool(_MASTER.match(key)) or not _OPTIMIZER.match(key)
        )
        self._masters = sorted({found[0] for key in self._entries if (found := _MASTER.match(key))})
        #: Of chunks that were looked into, by file and offset.
        self._refs: dict[tuple[str, int], TensorRef] = {}

    def require(self, weights: Sequence[Weight], *, padded: bool = True) -> None:
        """Compare with what should be there, reading nothing.

        Args:
            padded: the vocabulary may have more rows than tokens, as Megatron-LM writes it; our runs never pad.
        Raises:
            ArtifactError: lists missing and unexpected tensors, those of another shape, and files that are missing or cut off.
        """
        parts = {spell(weight.key, weight.layer): self._find(weight.key, weight.layer) for weight in weights}
        used = {part.name for found in parts.values() for part in found}
        missing = _merged([weight for weight in weights if not parts[spell(weight.key, weight.layer)]])
        unexpected = sorted(key for key in self._entries if key not in used and not _MASTER.match(key))
        if missing or unexpected:
            raise ArtifactError(
                f"{self.directory} is not the model that is asked for; "
                f"missing: {listed(missing)}; unexpected: {listed(unexpected)}"
            )
        self._require_shapes(weights, most_padding=_MOST_PADDING if padded else 0)
        self._require_files(used)
        if any(_MASTER.match(name) for name in used):
            print(
                f"{self.directory} holds no weights; those of its optimizer (fp32) are taken",
                file=sys.stderr,
                flush=True,
            )

    def stored(self, key: str, layer: int | None) -> Stored:
        """A weight, or one layer of it, with all its rows.

        Raises:
            ArtifactError: it is missing, its chunks do not cover it or cannot be read as they are.
        """
        parts = self._find(key, layer)
        if not parts:
            raise ArtifactError(f"{self.directory} has no {spell(key, layer)}")
        boxes: list[Box] = []
        dtypes: list[Dtype] = []
        rows = 0
        for part in parts:
            for chunk in part.chunks():
                ref = self._ref(part.name, chunk)
                dtypes.append(ref.dtype)
                found = dist_boxes.boxes(self.directory / chunk.file, part.entry, chunk, ref, part.layer)
                boxes += [dataclasses.replace(box, row=rows + box.row) for box in found]
            rows += part.shape[0]
        if len(set(dtypes)) > 1:
            names = ", ".join(sorted({dtype.name for dtype in dtypes}))
            raise ArtifactError(
                f"{spell(key, layer)} is stored in several formats ({names}); save the checkpoint again"
            )
        dtype = dtypes[0] if dtypes else parts[0].entry.dtype
        return plan.stored(spell(key, layer), (rows, *parts[0].shape[1:]), dtype, tuple(boxes))

    def _find(self, key: str, layer: int | None) -> list[_Part]:
        """Where a weight is, in the order of its rows; the fp32 copies count only when it is nowhere else."""
        own = None if layer is None else key.replace(LAYERS, f"{LAYERS}{layer}.", 1)
        for prefix in ("", *self._masters):
            for name, index in ((prefix + key, layer), *([(prefix + own, None)] if own else [])):
                # mlp.py of megatron-core with `singleton_local_shards`: gate is w, up is v
                for names in ((name,), (f"{name}_w", f"{name}_v")):
                    if all(each in self._entries for each in names):
                        return [_Part(each, self._entries[each], index) for each in names]
        return []

    def _require_shapes(self, weights: Sequence[Weight], *, most_padding: int) -> None:
        num_layers = len({weight.layer for weight in weights} - {None})
        wrong = {}
        for weight in weights:
            parts = self._find(weight.key, weight.layer)
            lengths = {len(part.shape) for part in parts}
            shape = (sum(part.shape[0] for part in parts if part.shape), *parts[0].shape[1:])
            rows_fit = 0 <= shape[0] - weight.shape[0] <= (most_padding if weight.key in _PADDED else 0)
            stacks_fit = all(part.layer is None or part.entry.shape[0] == num_layers for part in parts)
            if lengths != {len(weight.shape)} or shape[1:] != weight.shape[1:] or not rows_fit or not stacks_fit:
                stack = [] if parts[0].layer is None else [num_layers]
                found = " and ".join(str(list(part.entry.shape)) for part in parts)
                wrong[parts[0].name] = f"{parts[0].name} is {found}, not {[*stack, *weight.shape]}"
        if wrong:
            raise ArtifactError(f"{self.directory} is not the model that is asked for: {listed(list(wrong.values()))}")

    def _require_files(self, names: set[str]) -> None:
        ends: dict[str, int] = {}
        for name in names:
            for chunk in self._entries[name].chunks:
                if chunk.length is None:
                    raise ArtifactError(
                        f"{self.directory}: {name} at {list(chunk.offsets)} is in no file; the checkpoint is damaged"
                    )
                ends[chunk.file] = max(ends.get(chunk.file, 0), chunk.offset + chunk.length)
        wrong = [text for file, end in sorted(ends.items()) if (text := _incomplete(self.directory / file, end))]
        if wrong:
            raise ArtifactError(f"the checkpoint is incomplete: {listed(wrong)}; copy or save it again")

    def _ref(self, name: str, chunk: Chunk) -> TensorRef:
        place = (chunk.file, chunk.offset)
        if place not in self._refs:
            self._refs[place] = self._read_ref(name, chunk)
        return self._refs[place]

    def _read_ref(self, name: str, chunk: Chunk) -> TensorRef:
        where = f"{name} at {list(chunk.offsets)}"
        try:
            ref = torch_archive.read(self.directory / chunk.file, offset=chunk.offset, length=chunk.length)
        except OSError as error:
            raise ArtifactError(
                f"cannot read {self.directory / chunk.file}: {error.strerror}; the checkpoint is incomplete"
            ) from error
        except ArtifactError as error:
            raise ArtifactError(f"{where}: {error}") from error
        if not isinstance(ref, TensorRef):
            raise ArtifactError(f"{where}: {self.directory / chunk.file} holds {type(ref).__name__}, not a tensor")
        return ref


def _incomplete(file: Path, end: int) -> str | None:
    try:
        size = file.stat().st_size
    except OSError as error:
        return f"{file}: {error.strerror}"
    return None if size >= end else f"{file} ends at {size:,} of {end:,} bytes"


def _merged(weights: Sequence[Weight]) -> list[str]:
    """Their names; where a key lacks more than one layer, once."""
    layers: dict[str, list[int | None]] = {}
    for weight in weights:
        layers.setdefault(weight.key, []).append(weight.layer)
    return [
        spell(key, found[0]) if len(found) == 1 else f"{key} ({len(found)} layers)" for key, found in layers.items()
    ]


def common(directory: Path) -> dict[str, Any]:
    """What of a checkpoint is not sharded: arguments, iteration, ...; objects of any class as dicts of their attributes.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    file = directory / COMMON
    try:
        found = _plain(torch_archive.read(file, inert=True))
    except OSError as error:
        raise ArtifactError(f"cannot read {file}: {error.strerror}; the checkpoint is incomplete") from error
    if not isinstance(found, dict):
        raise ArtifactError(f"{file} holds {type(found).__name__}, not a dict; the checkpoint is damaged")
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return _plain(vars(value))
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


# Writing --------------------------------------------------------------------------------------------------------------


def files(
    tensors: Sequence[tuple[Weight, Wanted]], *, num_layers: int, max_file_bytes: int
) -> tuple[list[OutputFile], dict[str, bytes]]:
    """A checkpoint that `megatron.core.dist_checkpointing` loads at any layout.

    Args:
        tensors: every layer for itself.
        max_file_bytes: a larger tensor gets a file of its own.

    Returns:
        The large files, and the small ones by name. Whoever looks for a complete checkpoint looks for the last of those.
    """
    found: list[OutputFile] = []
    entries: dict[str, Entry] = {}
    builder = _FileBuilder(_file_name(0))
    for weight, wanted in tensors:
        before, after = torch_archive.tensor_parts(wanted.dtype, _chunk_shape(weight))
        if not builder.empty and builder.size + len(before) + wanted.num_bytes + len(after) > max_file_bytes:
            found.append(builder.build())
            builder = _FileBuilder(_file_name(len(found)))
        offset, length = builder.add(before, wanted, after)
        _note(entries, weight, wanted, num_layers, (builder.name, offset, length))
    found.append(builder.build())
    return found, {
        METADATA: encode_metadata(entries),
        COMMON: torch_archive.dumps({}),
        BACKEND_FILE: (json.dumps(BACKEND, indent=2) + "\n").encode(),
    }


class _FileBuilder:
    """One archive after the other."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.size = 0
        self._literals: dict[int, bytes] = {}
        self._tensors: list[tuple[int, Wanted]] = []
        #: What follows the last tensor.
        self._pending = b""

    @property
    def empty(self) -> bool:
        return not self._tensors

    def add(self, before: bytes, wanted: Wanted, after: bytes) -> tuple[int, int]:
        """Offset and length of the archive."""
        offset = self.size
        self._pending += before
        start = offset + len(before)
        self._literals[start - len(self._pending)] = self._pending
        self._tensors.append((start, wanted))
        self._pending = after
        self.size = start + wanted.num_bytes + len(after)
        return offset, self.size - offset

    def build(self) -> OutputFile:
        literals = {**self._literals, self.size - len(self._pending): self._pending}
        return OutputFile(self.name, self.size, literals, tuple(self._tensors))


def _file_name(number: int) -> str:
    """As of rank `number`; torch and Megatron look names up in `.metadata`, so that any number of files will do."""
    return f"__{number}_0.distcp"


def _chunk_shape(weight: Weight) -> tuple[int, ...]:
    return weight.shape if weight.layer is None else (1, *weight.shape)


def _note(
    entries: dict[str, Entry], weight: Weight, wanted: Wanted, num_layers: int, place: tuple[str, int, int]
) -> None:
    """Add a chunk to what `.metadata` will say."""
    origin = (0,) * len(weight.shape)
    offsets = origin if weight.layer is None else (weight.layer, *origin)
    shape = weight.shape if weight.layer is None else (num_layers, *weight.shape)
    chunk = Chunk(offsets, _chunk_shape(weight), *place)
    entry = entries.get(weight.key, Entry(shape, wanted.dtype, ()))
    entries[weight.key] = Entry(shape, entry.dtype, (*entry.chunks, chunk))
