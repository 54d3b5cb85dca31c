import argparse
import itertools
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from megatron_octo.conversion import torch_archive, torch_dist
from megatron_octo.conversion.config import Direction
from megatron_octo.conversion.dtypes import BF16, FP8_E4M3, FP32
from megatron_octo.conversion.layout import EMBEDDING, Weight
from megatron_octo.conversion.plan import Box, OutputFile, Run, Stored, Wanted
from megatron_octo.conversion.torch_dist import Checkpoint
from megatron_octo.errors import ArtifactError

FC1 = "decoder.layers.mlp.linear_fc1.weight"
FC2 = "decoder.layers.mlp.linear_fc2.weight"
NORM = "decoder.final_layernorm.weight"
#: Two layers of [4, 6].
STACKED = torch.arange(48.0).reshape(2, 4, 6)
FLAT = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)

#: Tensor by offsets.
Chunks = Mapping[tuple[int, ...], torch.Tensor]


class Planner(DefaultSavePlanner):
    """Cuts tensors as it is told, which DCP leaves to the ranks otherwise."""

    def __init__(self, tensors: Mapping[str, Chunks]) -> None:
        super().__init__()
        self.tensors = tensors

    def set_up_planner(self, *_: Any, **__: Any) -> None:
        pass

    def create_local_plan(self) -> SavePlan:
        return SavePlan(
            [
                WriteItem(
                    MetadataIndex(key, offsets),
                    WriteItemType.SHARD,
                    tensor_data=TensorWriteData(
                        ChunkStorageMetadata(torch.Size(offsets), tensor.shape),
                        TensorProperties(dtype=tensor.dtype),
                        whole(chunks),
                    ),
                )
                for key, chunks in self.tensors.items()
                for offsets, tensor in chunks.items()
            ]
        )

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        return all_plans, Metadata(
            {
                key: TensorStorageMetadata(
                    TensorProperties(dtype=next(iter(chunks.values())).dtype),
                    whole(chunks),
                    [ChunkStorageMetadata(torch.Size(at), tensor.shape) for at, tensor in chunks.items()],
                )
                for key, chunks in self.tensors.items()
            }
        )

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor:
        assert write_item.index.offset is not None
        return self.tensors[write_item.index.fqn][tuple(write_item.index.offset)]


def whole(chunks: Chunks) -> torch.Size:
    ends = [np.add(offsets, tensor.shape) for offsets, tensor in chunks.items()]
    return torch.Size(np.max(ends, axis=0).tolist())


def write(directory: Path, tensors: Mapping[str, Chunks | torch.Tensor]) -> Checkpoint:
    """A checkpoint by torch's own writer."""
    cut = {key: {(0,) * t.dim(): t} if isinstance(t, torch.Tensor) else t for key, t in tensors.items()}
    save({}, storage_writer=FileSystemWriter(directory), planner=Planner(cut), no_dist=True)
    torch.save({}, directory / "common.pt")
    return Checkpoint(directory)


def numbers(stored: Stored) -> Any:
    """What the boxes hold, each read number by number."""
    found = np.full((stored.rows, stored.columns), np.nan)
    for box in stored.boxes:
        raw = np.memmap(box.file, np.uint8, mode="r", offset=box.offset)
        strides = (box.stride, stored.dtype.itemsize)
        view = np.ndarray((box.rows, box.columns), stored.dtype.numpy, raw.data, strides=strides)
        found[box.row : box.row + box.rows, box.column : box.column + box.columns] = view.astype(np.float64)
    return found.reshape(stored.shape).tolist()


def grid(tensor: torch.Tensor, *sizes: int) -> dict[tuple[int, ...], torch.Tensor]:
    """All boxes of these sizes, copied out."""
    parts: dict[tuple[int, ...], torch.Tensor] = {(): tensor}
    for axis, size in enumerate(sizes):
        parts = {
            (*at, number * size): piece.clone()
            for at, part in parts.items()
            for number, piece in enumerate(torch.split(part, size, dim=axis))
        }
    return parts


def weight(key: str, shape: tuple[int, ...], layer: int | None = None) -> Weight:
    return Weight(key, layer, shape, ())


# Reading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "boxes"),
    [
        pytest.param((1, 4, 6), 1, id="one layer in a chunk"),
        pytest.param((2, 4, 6), 1, id="all layers in a chunk"),
        pytest.param((1, 2, 6), 2, id="rows over ranks"),
        pytest.param((1, 4, 2), 3, id="columns over ranks"),
        pytest.param((2, 3, 4), 4, id="unevenly, several layers in a chunk"),
    ],
)
def test_any_cut(tmp_path: Path, sizes: tuple[int, ...], boxes: int) -> None:
    checkpoint = write(tmp_path, {FC1: grid(STACKED, *sizes)})
    checkpoint.require([weight(FC1, (4, 6), 0), weight(FC1, (4, 6), 1)])
    for layer in range(2):
        stored = checkpoint.stored(FC1, layer)
        assert (stored.shape, stored.dtype, len(stored.boxes)) == ((4, 6), FP32, boxes)
        assert numbers(stored) == STACKED[layer].tolist()


def test_outside_the_layers(tmp_path: Path) -> None:
    stored = write(tmp_path, {NORM: {(0,): FLAT[:1].clone(), (1,): FLAT[1:].clone()}}).stored(NORM, None)
    assert (stored.shape, stored.dtype) == ((2,), BF16)
    assert numbers(stored) == [1.5, -2.0]


def test_layers_with_keys_of_their_own(tmp_path: Path) -> None:
    """`non_homogeneous_layers`, with the gate and up of `singleton_local_shards`."""
    mlp = "decoder.layers.{}.mlp.linear_{}.weight"
    checkpoint = write(
        tmp_path,
        {
            **{mlp.format(layer, "fc2"): STACKED[layer].clone() for layer in range(2)},
            **{mlp.format(layer, "fc1") + "_w": grid(STACKED[layer, :2], 1, 6) for layer in range(2)},
            **{mlp.format(layer, "fc1") + "_v": grid(STACKED[layer, 2:], 1, 6) for layer in range(2)},
        },
    )
    checkpoint.require([weight(key, (4, 6), layer) for key in (FC1, FC2) for layer in range(2)])
    assert numbers(checkpoint.stored(FC2, 1)) == STACKED[1].tolist()
    assert numbers(checkpoint.stored(FC1, 1)) == STACKED[1].tolist()


@pytest.mark.parametrize("prefix", ["optimizer.state.fp32_param.", "chained_1.optimizer.state.param."])
def test_masters_where_there_is_nothing_else(tmp_path: Path, prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = write(tmp_path, {prefix + FC2: STACKED.clone(), f"optimizer.state.exp_avg.{FC2}": STACKED * 2})
    checkpoint.require([weight(FC2, (4, 6), layer) for layer in range(2)])
    assert capsys.readouterr().err.count("those of its optimizer (fp32) are taken") == 1
    assert numbers(checkpoint.stored(FC2, 1)) == STACKED[1].tolist()


@pytest.mark.parametrize(
    ("shape", "fragments", "cuts"),
    [
        pytest.param((2, 4, 6), (2, 1, 1), (0, 24), id="one rank"),
        pytest.param((2, 4, 6), (2, 1, 1), (0, 7, 8, 24), id="within rows"),
        pytest.param((2, 4, 6), (2, 1, 2), (0, 3, 5, 12), id="columns"),
        pytest.param((2, 4, 6), (1, 2, 1), (0, 11, 20, 24), id="several layers"),
        pytest.param((4, 6), (2, 2), (0, 2, 6), id="outside the layers"),
    ],
)
def test_flattened_masters(
    tmp_path: Path, shape: tuple[int, ...], fragments: tuple[int, ...], cuts: tuple[int, ...]
) -> None:
    """As the distributed optimizer of megatron-core before 0.16 cuts them (`resharding.py` there)."""
    tensor = STACKED.reshape(-1)[: np.prod(shape)].reshape(shape)
    key = FC2 if len(shape) == 3 else EMBEDDING
    master = f"optimizer.state.fp32_param.{key}"
    sizes = [size // count for size, count in zip(shape, fragments, strict=True)]
    chunks = {
        (*(start // size for start, size in zip(at, sizes, strict=True)), low): part.reshape(-1)[low:high].clone()
        for at, part in grid(tensor, *sizes).items()
        for low, high in itertools.pairwise(cuts)
    }
    write(tmp_path, {master: {at: flat.reshape(*(1 for _ in shape), -1) for at, flat in chunks.items()}})
    metadata = FileSystemReader(tmp_path).read_metadata()
    metadata.mcore_data = {master: {"nd_reformulated_orig_global_shape": shape}}  # type: ignore[attr-defined]
    (tmp_path / ".metadata").write_bytes(pickle.dumps(metadata))
    checkpoint = Checkpoint(tmp_path)
    if len(shape) == 3:
        checkpoint.require([weight(key, (4, 6), layer) for layer in range(2)])
        assert [numbers(checkpoint.stored(key, layer)) for layer in range(2)] == tensor.tolist()
    else:
        checkpoint.require([weight(key, (4, 6))])
        assert numbers(checkpoint.stored(key, None)) == tensor.tolist()


def test_weights_before_masters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    master = f"optimizer.state.fp32_param.{NORM}"
    checkpoint = write(tmp_path, {NORM: FLAT, master: FLAT.float() + 1})
    checkpoint.require([weight(NORM, (2,))])
    assert numbers(checkpoint.stored(NORM, None)) == [1.5, -2.0]
    assert capsys.readouterr().err == ""


def test_padded_vocabulary(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, {EMBEDDING: STACKED[0].clone()})
    checkpoint.require([weight(EMBEDDING, (3, 6))])
    assert checkpoint.stored(EMBEDDING, None).shape == (4, 6)
    with pytest.raises(ArtifactError, match=rf"{EMBEDDING} is \[4, 6\], not \[3, 6\]"):
        checkpoint.require([weight(EMBEDDING, (3, 6))], padded=False)


def test_more_rows_than_padding_explains_are_refused(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, {EMBEDDING: torch.zeros(8200, 2)})
    checkpoint.require([weight(EMBEDDING, (8, 2))])
    with pytest.raises(ArtifactError, match=rf"{EMBEDDING} is \[8200, 2\], not \[7, 2\]"):
        checkpoint.require([weight(EMBEDDING, (7, 2))])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([weight(NORM, (2,)), weight("x", (2,))], f"missing: x; unexpected: {FC2}$"),
        ([weight(NORM, (2,)), weight(FC1, (4, 6), 0), weight(FC1, (4, 6), 1)], rf"missing: {FC1} \(2 layers\); unexp"),
        ([weight(f"w{i}", (2,)) for i in range(30)], r"w18, w19 and 10 more; unexpected"),
        ([weight(NORM, (3,)), weight(FC2, (4, 6), 0), weight(FC2, (4, 6), 1)], rf"{NORM} is \[2\], not \[3\]"),
        ([weight(NORM, (1,)), weight(FC2, (4, 6), 0), weight(FC2, (4, 6), 1)], rf"{NORM} is \[2\], not \[1\]"),
        ([weight(NORM, (2,)), weight(FC2, (4, 6), 0)], rf"{FC2} is \[2, 4, 6\], not \[1, 4, 6\]"),
        ([weight(NORM, (2,)), weight(FC2, (4,), 0), weight(FC2, (4,), 1)], rf"{FC2} is \[2, 4, 6\], not \[2, 4\]"),
    ],
)
def test_another_model_is_refused(tmp_path: Path, weights: list[Weight], message: str) -> None:
    checkpoint = write(tmp_path, {FC2: STACKED.clone(), NORM: FLAT})
    with pytest.raises(ArtifactError, match=message):
        checkpoint.require(weights)


def test_missing_and_cut_off_files_are_named(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, {NORM: FLAT})
    file = tmp_path / "__0_0.distcp"
    size = file.stat().st_size
    os.truncate(file, size - 1)
    with pytest.raises(ArtifactError, match=rf"__0_0\.distcp ends at {size - 1:,} of {size:,} bytes"):
        checkpoint.require([weight(NORM, (2,))])
    file.unlink()
    with pytest.raises(ArtifactError, match=r"__0_0\.distcp: No such file"):
        checkpoint.require([weight(NORM, (2,))])


def test_missing_chunks_are_counted(tmp_path: Path) -> None:
    chunks = grid(STACKED, 1, 2, 6)
    del chunks[1, 0, 0]
    with pytest.raises(ArtifactError, match=r"layer 1: 12 of 24 numbers are there"):
        write(tmp_path, {FC2: chunks}).stored(FC2, 1)


def test_a_chunk_in_no_file(tmp_path: Path) -> None:
    write(tmp_path, {NORM: FLAT})
    metadata = FileSystemReader(tmp_path).read_metadata()
    metadata.storage_data = {}
    (tmp_path / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(ArtifactError, match=rf"{NORM} at \[0\] is in no file"):
        Checkpoint(tmp_path).require([weight(NORM, (2,))])


def test_strided_rows_are_read_and_strided_numbers_refused(tmp_path: Path) -> None:
    """DCP copies what it saves, so that these chunks are put where its own were."""
    write(tmp_path, {FC2: STACKED.clone(), NORM: FLAT})
    storage = torch.arange(96.0).reshape(2, 4, 12)
    replace(tmp_path, FC2, storage[:, :, 3:9])
    assert numbers(Checkpoint(tmp_path).stored(FC2, 1)) == storage[1, :, 3:9].tolist()
    replace(tmp_path, FC2, storage[:, :, ::2])
    with pytest.raises(
        ArtifactError,
        match=r"other.distcp: the chunk at .* strides \[12, 2\]; only rows whose numbers lie side by side",
    ):
        Checkpoint(tmp_path).stored(FC2, 1)


def replace(directory: Path, key: str, tensor: torch.Tensor) -> None:
    torch.save(tensor, directory / "other.distcp")
    metadata = FileSystemReader(directory).read_metadata()
    index = MetadataIndex(key, (0,) * tensor.dim())
    metadata.storage_data[index] = _StorageInfo("other.distcp", 0, (directory / "other.distcp").stat().st_size)
    (directory / ".metadata").write_bytes(pickle.dumps(metadata))


def test_fp8_beside_bf16_metadata(tmp_path: Path) -> None:
    """Megatron notes the format that FP8 weights are computed with; plain float8 tensors stand for Transformer Engine's here."""
    write(tmp_path, {NORM: FLAT})
    replace(tmp_path, NORM, FLAT.to(torch.float8_e4m3fn))
    stored = Checkpoint(tmp_path).stored(NORM, None)
    assert stored.dtype == FP8_E4M3
    assert numbers(stored) == [1.5, -2.0]


def test_several_formats_in_one_weight(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, {NORM: {(0,): FLAT[:1].clone(), (1,): FLAT[1:].float()}})
    with pytest.raises(ArtifactError, match=r"several formats \(bfloat16, float32\)"):
        checkpoint.stored(NORM, None)


def test_a_chunk_of_another_shape(tmp_path: Path) -> None:
    write(tmp_path, {NORM: FLAT})
    replace(tmp_path, NORM, torch.ones(3))
    with pytest.raises(ArtifactError, match=r"other\.distcp: the chunk at \[0\] is \[3\], \.metadata says \[2\]"):
        Checkpoint(tmp_path).stored(NORM, None)


def test_chunks_stay_in_the_directory(tmp_path: Path) -> None:
    write(tmp_path, {NORM: FLAT})
    metadata = FileSystemReader(tmp_path).read_metadata()
    next(iter(metadata.storage_data.values())).relative_path = "../secret"
    (tmp_path / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(ArtifactError, match=r"a chunk lies in \.\./secret, outside"):
        Checkpoint(tmp_path)


def test_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no torch_dist checkpoint: \.metadata: No such file"):
        Checkpoint(tmp_path)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("broken-in",)


def test_metadata_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ArtifactError, match=r"names posix\.mkdir, which no checkpoint needs"):
        Checkpoint(tmp_path)
    assert not (tmp_path / "broken-in").exists()


def test_a_chunk_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {NORM: FLAT})
    monkeypatch.chdir(tmp_path)
    replace(tmp_path, NORM, torch.ones(2))
    torch.save(Evil(), tmp_path / "other.distcp")
    size = (tmp_path / "other.distcp").stat().st_size
    metadata = FileSystemReader(tmp_path).read_metadata()
    next(iter(metadata.storage_data.values())).length = size
    (tmp_path / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(ArtifactError, match=rf"{NORM} at \[0\]: .* names posix\.mkdir"):
        Checkpoint(tmp_path).stored(NORM, None)
    assert not (tmp_path / "broken-in").exists()


def test_common_is_plain_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = write(tmp_path, {NORM: FLAT})
    monkeypatch.chdir(tmp_path)
    args = argparse.Namespace(num_layers=16, direction=Direction.TO_HF, evil=Evil(), betas=(0.9, 0.95))
    torch.save({"args": args, "iteration": 7}, tmp_path / "common.pt")
    common = torch_dist.common(checkpoint.directory)
    assert common["iteration"] == 7
    assert common["args"]["num_layers"] == 16
    assert common["args"]["betas"] == [0.9, 0.95]
    assert common["args"]["direction"] == {"arguments": ["to-hf"]}
    assert not (tmp_path / "broken-in").exists()


# Writing --------------------------------------------------------------------------------------------------------------


def layers() -> Iterator[tuple[Weight, Wanted]]:
    """Norm and two layers; where their numbers come from does not matter here."""
    for key, shape, layer in ((NORM, (2,), None), (FC2, (4, 6), 0), (FC2, (4, 6), 1)):
        box = Box(Path(__file__), 0, 0, 0, shape[0], shape[-1] if len(shape) > 1 else 1, 4)
        source = Stored(key, shape, FP32, (box,))
        dtype = BF16 if key == NORM else FP32
        yield weight(key, shape, layer), Wanted(f"{key}{layer}", shape, dtype, (Run(source, 0, 0, shape[0]),))


def lay_out(directory: Path, *, max_file_bytes: int) -> list[str]:
    """Write the files as copying would, with the numbers of `FLAT` and `STACKED`."""
    values = [
        FLAT.view(torch.uint8),
        STACKED[0].contiguous().view(torch.uint8),
        STACKED[1].contiguous().view(torch.uint8),
    ]
    data = iter(value.numpy().tobytes() for value in values)
    large, small = torch_dist.files(list(layers()), num_layers=2, max_file_bytes=max_file_bytes)
    for file in large:
        (directory / file.name).write_bytes(content(file, data))
    for name, text in small.items():
        (directory / name).write_bytes(text)
    assert list(small)[-1] == "metadata.json"
    return [file.name for file in large]


def content(file: OutputFile, data: Iterator[bytes]) -> bytes:
    pieces = dict(file.literals) | {offset: next(data) for offset, _ in file.tensors}
    found = b""
    for offset in sorted(pieces):
        assert offset == len(found)
        found += pieces[offset]
    assert file.size == len(found)
    return found


@pytest.mark.parametrize(("max_file_bytes", "count"), [(10**9, 1), (2000, 2), (1, 3)])
def test_torch_reads_what_is_written(tmp_path: Path, max_file_bytes: int, count: int) -> None:
    assert lay_out(tmp_path, max_file_bytes=max_file_bytes) == [f"__{number}_0.distcp" for number in range(count)]
    state = {NORM: torch.zeros(2, dtype=torch.bfloat16), FC2: torch.zeros(2, 4, 6)}
    load(state, checkpoint_id=tmp_path, no_dist=True)
    assert torch.equal(state[NORM], FLAT)
    assert torch.equal(state[FC2], STACKED)
    assert torch.load(tmp_path / "common.pt", weights_only=True) == {}


def test_reads_what_it_writes(tmp_path: Path) -> None:
    lay_out(tmp_path, max_file_bytes=2000)
    checkpoint = Checkpoint(tmp_path)
    checkpoint.require([each for each, _ in layers()])
    assert numbers(checkpoint.stored(FC2, 1)) == STACKED[1].tolist()
    assert numbers(checkpoint.stored(NORM, None)) == [1.5, -2.0]
    assert torch_dist.common(checkpoint.directory) == {}


def test_metadata_is_what_torch_would_write(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    lay_out(tmp_path / "ours", max_file_bytes=10**9)
    write(tmp_path / "torch", {NORM: FLAT, FC2: grid(STACKED, 1, 4, 6)})
    ours, torchs = (FileSystemReader(tmp_path / name).read_metadata() for name in ("ours", "torch"))
    assert ours.state_dict_metadata == torchs.state_dict_metadata
    assert (ours.planner_data, ours.version) == (torchs.planner_data, torchs.version)
    assert ours.storage_data.keys() == torchs.storage_data.keys()
    before, after = torch_archive.tensor_parts(BF16, (2,))
    length = len(before) + 4 + len(after)
    assert ours.storage_data[MetadataIndex(NORM, (0,))] == _StorageInfo("__0_0.distcp", 0, length)


def test_same_tensors_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        lay_out(tmp_path / name, max_file_bytes=10**9)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
