import argparse
import enum
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from megatron_octo.conversion import pickles, torch_archive
from megatron_octo.conversion.dtypes import BF16, FP8_E4M3, FP8_E5M2, FP16, FP32, Dtype
from megatron_octo.conversion.pickles import Call, Global, Instance, Persistent
from megatron_octo.conversion.torch_archive import TensorRef
from megatron_octo.conversion.zips import ZipWriter
from megatron_octo.errors import ArtifactError

NUMBERS = torch.arange(12.0).reshape(3, 4)


def numbers(file: Path, ref: TensorRef) -> list[Any]:
    """What a reference says lies in the file."""
    raw = np.memmap(file, np.uint8, mode="r", offset=ref.offset)
    strides = tuple(stride * ref.dtype.itemsize for stride in ref.strides)
    view = np.ndarray(ref.shape, ref.dtype.numpy, raw.data, strides=strides)
    found: list[Any] = view.astype(np.float64).tolist()
    return found


@pytest.mark.parametrize(
    ("torch_dtype", "dtype"),
    [
        (torch.float32, FP32),
        (torch.float16, FP16),
        (torch.bfloat16, BF16),
        (torch.float8_e4m3fn, FP8_E4M3),
        (torch.float8_e5m2, FP8_E5M2),
    ],
)
def test_finds_numbers_of_every_format(tmp_path: Path, torch_dtype: torch.dtype, dtype: Dtype) -> None:
    file = tmp_path / "archive.pt"
    torch.save({"first": torch.ones(5), "second": torch.tensor([[1.0, 2.0], [3.0, 4.0]]).to(torch_dtype)}, file)
    ref = torch_archive.read(file)["second"]
    assert (ref.dtype, ref.shape, ref.scale) == (dtype, (2, 2), None)
    assert numbers(file, ref) == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("tensor", "strides"),
    [
        pytest.param(NUMBERS[1:, 1:3], (4, 1), id="a view keeps the storage"),
        pytest.param(NUMBERS[1:, 1:3].clone(), (2, 1), id="its clone does not"),
        pytest.param(NUMBERS[1:, 1:3].T.contiguous().T, (1, 2), id="transposed"),
        pytest.param(torch.nn.Parameter(NUMBERS[1:, 1:3].clone()), (2, 1), id="a parameter"),
    ],
)
def test_strides(tmp_path: Path, tensor: torch.Tensor, strides: tuple[int, ...]) -> None:
    file = tmp_path / "archive.pt"
    torch.save(tensor, file)
    ref = torch_archive.read(file)
    assert ref.strides == strides
    assert numbers(file, ref) == [[5, 6], [9, 10]]


def test_a_tensor_with_attributes(tmp_path: Path) -> None:
    file = tmp_path / "archive.pt"
    tensor = NUMBERS.clone()
    tensor.tensor_model_parallel = True  # type: ignore[attr-defined]
    torch.save(tensor, file)
    assert numbers(file, torch_archive.read(file))[2] == [8, 9, 10, 11]


def test_a_part_of_a_file(tmp_path: Path) -> None:
    file, alone = tmp_path / "chunks", tmp_path / "alone.pt"
    torch.save(NUMBERS, alone)
    file.write_bytes(b"x" * 100 + alone.read_bytes() + b"y" * 100)
    ref = torch_archive.read(file, offset=100, length=alone.stat().st_size)
    assert numbers(file, ref) == NUMBERS.tolist()


def test_state_dicts_have_metadata(tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    torch.save(torch.nn.Linear(4, 3).state_dict(), file)
    assert {name: ref.shape for name, ref in torch_archive.read(file).items()} == {"weight": (3, 4), "bias": (3,)}


@pytest.mark.parametrize(("torch_dtype", "dtype"), [(torch.float32, FP32), (torch.bfloat16, BF16)])
@pytest.mark.parametrize("shape", [(3, 4), (1, 3, 4), (12,)])
def test_torch_loads_what_is_written(
    tmp_path: Path, torch_dtype: torch.dtype, dtype: Dtype, shape: tuple[int, ...]
) -> None:
    file = tmp_path / "archive.pt"
    before, after = torch_archive.tensor_parts(dtype, shape)
    tensor = NUMBERS.to(torch_dtype).reshape(shape)
    file.write_bytes(before + tensor.contiguous().view(torch.uint8).numpy().tobytes() + after)
    assert len(before) % 64 == 0
    assert torch.equal(torch.load(file, weights_only=True), tensor)
    assert torch.equal(torch.load(file, weights_only=True, mmap=True), tensor)
    assert torch_archive.read(file) == TensorRef(dtype, shape, tuple(tensor.stride()), len(before), None)


def test_plain_data_written(tmp_path: Path) -> None:
    file = tmp_path / "common.pt"
    value: dict[Any, Any] = {"a": [1, -2, 2**40, 1.5, None, True, False], "ü": ("x", {}), 3: []}
    file.write_bytes(torch_archive.dumps(value))
    assert torch.load(file, weights_only=True) == value
    assert torch_archive.read(file) == value
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None


def test_zip64(tmp_path: Path) -> None:
    """More than 4 GiB in a sparse file, with 1.0 as the last number."""
    file = tmp_path / "archive.pt"
    size = 2**30 + 16
    before, after = torch_archive.tensor_parts(FP32, (size,))
    with file.open("wb") as stream:
        stream.write(before)
        stream.seek(len(before) + 4 * size - 4)
        stream.write(struct.pack("<f", 1.0) + after)
    assert torch_archive.read(file) == TensorRef(FP32, (size,), (1,), len(before), None)
    tensor = torch.load(file, weights_only=True, mmap=True)
    assert tensor.shape == (size,)
    assert tensor[-2:].tolist() == [0.0, 1.0]


# Transformer Engine ---------------------------------------------------------------------------------------------------

FLOAT8 = "transformer_engine.pytorch.tensor.float8_tensor"
GETATTR = Call(Global("__builtin__", "getattr"), (Global(FLOAT8, "Float8Tensor"), "_make_in_reduce_ex"))
DTYPE = Global("transformer_engine_torch", "DType")


def tensor_of(storage: str, key: str, shape: tuple[int, ...]) -> Call:
    count = int(np.prod(shape))
    pid = ("storage", Global("torch", storage), key, "cpu", count)
    strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), (Persistent(pid), 0, shape, strides, False, None))


def float8_archive(function: Any, kind: Any, *rest: Any) -> bytes:
    """1.0, -2.0 and 0.5 in E4M3, with scale 0.25."""
    data = tensor_of("ByteStorage", "0", (1, 3))
    value = Call(function, (data, kind, tensor_of("FloatStorage", "1", (1,)), Global("torch", "bfloat16"), *rest))
    writer = ZipWriter()
    writer.add("archive/data.pkl", pickles.dumps(value))
    writer.add("archive/data/0", np.array([1.0, -2.0, 0.5], ml_dtypes.float8_e4m3fn).tobytes())
    writer.add("archive/data/1", struct.pack("<f", 0.25))
    writer.add("archive/version", b"3\n")
    return writer.finish()


@pytest.mark.parametrize(
    ("function", "kind", "rest"),
    [
        pytest.param(GETATTR, Instance(DTYPE, 6), (), id="1.13"),
        pytest.param(GETATTR, Instance(DTYPE, 6), ((1, 3),), id="2.0"),
        pytest.param(GETATTR, Instance(DTYPE, 7), ((1, 3),), id="2.4"),
        pytest.param(
            Global(FLOAT8, "_make_float8_tensor_in_reduce_ex"), Call(DTYPE, (7,)), ((1, 3), None), id="after 2.9"
        ),
    ],
)
def test_scaled_fp8(tmp_path: Path, function: Any, kind: Any, rest: tuple[Any, ...]) -> None:
    file = tmp_path / "chunk"
    file.write_bytes(float8_archive(function, kind, *rest))
    ref = torch_archive.read(file)
    assert (ref.dtype, ref.shape, ref.scale) == (FP8_E4M3, (1, 3), 0.25)
    assert numbers(file, ref) == [[1.0, -2.0, 0.5]]


MXFP8 = "transformer_engine.pytorch.tensor.mxfp8_tensor"


@pytest.mark.parametrize(
    "function",
    [
        Call(Global("__builtin__", "getattr"), (Global(MXFP8, "MXFP8Tensor"), "_make_in_reduce_ex")),
        Global(MXFP8, "_make_mxfp8_tensor_in_reduce_ex"),
    ],
)
def test_block_scaled_fp8_is_refused(tmp_path: Path, function: Any) -> None:
    file = tmp_path / "chunk"
    file.write_bytes(float8_archive(function, Instance(DTYPE, 7)))
    with pytest.raises(ArtifactError, match=r"MXFP8.*save the checkpoint with bf16 weights"):
        torch_archive.read(file)


# What is refused ------------------------------------------------------------------------------------------------------


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-30])


def _compress(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def _save_legacy(file: Path) -> None:
    torch.save(NUMBERS, file, _use_new_zipfile_serialization=False)


def _shorten_storage(file: Path) -> None:
    writer = ZipWriter()
    writer.add("archive/data.pkl", pickles.dumps(tensor_of("FloatStorage", "0", (3,))))
    writer.add("archive/data/0", b"\0" * 8)
    file.write_bytes(writer.finish())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, r"archive\.pt is cut off"),
        (_compress, "is compressed, which torch does not do"),
        (_save_legacy, "no archive of torch.save since torch 1.6"),
        (_shorten_storage, r"a tensor \[3\] reaches beyond its 8 bytes"),
    ],
)
def test_damaged_archives(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    file = tmp_path / "archive.pt"
    torch.save(NUMBERS, file)
    damage(file)
    with pytest.raises(ArtifactError, match=message):
        torch_archive.read(file)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("broken-in",)


def test_an_archive_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "archive.pt"
    torch.save({"weight": NUMBERS, "evil": Evil()}, file)
    with pytest.raises(ArtifactError, match=r"names posix\.mkdir, which no checkpoint needs"):
        torch_archive.read(file)
    assert vars(torch_archive.read(file, inert=True)["evil"]) == {"arguments": ("broken-in",)}
    assert not (tmp_path / "broken-in").exists()


@pytest.mark.parametrize("name", ["__globals__", "_make_in_reduce_ex"])
def test_getattr_gives_nothing_else(tmp_path: Path, name: str) -> None:
    file = tmp_path / "archive.pt"
    writer = ZipWriter()
    function = Global("torch._utils", "_rebuild_parameter")
    writer.add("archive/data.pkl", pickles.dumps(Call(Global("builtins", "getattr"), (function, name))))
    file.write_bytes(writer.finish())
    with pytest.raises(ArtifactError, match=f"asks for an attribute {name}"):
        torch_archive.read(file)


def test_a_pickle_cannot_change_what_the_next_one_sees(tmp_path: Path) -> None:
    """It sets an attribute of a class by the state of slots, which Python's unpickler sets one by one."""
    file = tmp_path / "archive.pt"
    state = pickles.dumps((None, {"marked": True}))[2:-1]
    writer = ZipWriter()
    named = pickles.dumps(Global("collections", "OrderedDict"))[:-1]
    writer.add("archive/data.pkl", named + state + pickle.BUILD + pickle.STOP)
    file.write_bytes(writer.finish())
    assert torch_archive.read(file).marked
    torch.save(OrderedDict(), file)
    assert not hasattr(torch_archive.read(file), "marked")


class Backend(enum.Enum):
    FLASH = 3


def test_unknown_classes_keep_their_attributes(tmp_path: Path) -> None:
    file = tmp_path / "common.pt"
    args = argparse.Namespace(num_layers=16, backend=Backend.FLASH, path=Path("x"), activation=torch.nn.functional.silu)
    torch.save({"args": args, "iteration": 7}, file)
    found = torch_archive.read(file, inert=True)
    assert found["iteration"] == 7
    assert found["args"].num_layers == 16
    assert found["args"].backend.arguments == (3,)
