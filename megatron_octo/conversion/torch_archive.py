"""What `torch.save` writes, without torch: a zip of `data.pkl`, in which tensors are named, and of their bytes.

Reading gives the pickled object with a `TensorRef` in place of every tensor: where its numbers lie, not the numbers.
"""

import io
import itertools
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from megatron_octo.conversion import pickles
from megatron_octo.conversion.dtypes import BF16, FP8_E4M3, FP8_E5M2, FP16, FP32, Dtype
from megatron_octo.conversion.pickles import Call, CalledRecord, Global, Persistent
from megatron_octo.conversion.zips import ZipWriter
from megatron_octo.errors import ArtifactError

#: Formats of numbers that are no weights, but may lie beside them.
_OTHERS = (
    Dtype("float64", "F64", "DoubleStorage", np.dtype(np.float64)),
    Dtype("int64", "I64", "LongStorage", np.dtype(np.int64)),
    Dtype("int32", "I32", "IntStorage", np.dtype(np.int32)),
    Dtype("int16", "I16", "ShortStorage", np.dtype(np.int16)),
    Dtype("int8", "I8", "CharStorage", np.dtype(np.int8)),
    Dtype("uint8", "U8", "ByteStorage", np.dtype(np.uint8)),
    Dtype("bool", "BOOL", "BoolStorage", np.dtype(np.bool_)),
)
DTYPES = {dtype.name: dtype for dtype in (FP32, FP16, BF16, FP8_E4M3, FP8_E5M2, *_OTHERS)}
#: Bytes whose tensors say themselves what they are: storages of float8 have no class of their own.
_UNTYPED = "UntypedStorage"
_BY_STORAGE = {dtype.storage: dtype for dtype in DTYPES.values() if dtype.storage != _UNTYPED}


@dataclass(frozen=True)
class TensorRef:
    """Where the numbers of a tensor lie."""

    dtype: Dtype
    shape: tuple[int, ...]
    #: From one index to the next, numbers, of each axis.
    strides: tuple[int, ...]
    #: Of the first number, bytes from the beginning of the file.
    offset: int
    #: What the numbers are multiplied with, if they are scaled FP8.
    scale: float | None


def read(file: Path, *, offset: int = 0, length: int | None = None, inert: bool = False) -> Any:
    """The object of an archive, which may be a part of a file.

    Args:
        inert: whether classes that no tensor needs become `pickles.CalledRecord`s, rather than being refused.

    Raises:
        ArtifactError: the archive is cut off, compressed, of another format, or names what it should not.
        OSError: the file cannot be opened.
    """
    descriptor = os.open(file, os.O_RDONLY)
    try:
        length = os.fstat(descriptor).st_size - offset if length is None else length
        return _Archive(_Range(descriptor, offset, length)).load(inert=inert)
    except zipfile.BadZipFile as error:
        raise ArtifactError(
            f"{file} is cut off, or no archive of torch.save since torch 1.6 ({error}); fetch or save it again"
        ) from error
    except pickle.UnpicklingError as error:
        raise ArtifactError(f"{file} cannot be read: {error}") from error
    finally:
        os.close(descriptor)


class _Range(io.RawIOBase):
    """A part of a file that looks like a file."""

    def __init__(self, descriptor: int, start: int, length: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self.start = start
        self._length = length
        self._position = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        if base + offset < 0:
            # what zipfile expects of a file that is too short to be a zip
            raise OSError("negative seek position")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self.pread(self._position, min(len(buffer), max(0, self._length - self._position)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def pread(self, position: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, self.start + position)


class _Storage(NamedTuple):
    """Bytes that tensors are views of; immutable, because a pickle can name it."""

    #: From the beginning of the file.
    offset: int
    num_bytes: int
    #: None where tensors say themselves.
    dtype: Dtype | None


class _Archive:
    def __init__(self, view: _Range) -> None:
        self._view = view
        with zipfile.ZipFile(view) as archive:
            self._entries = {entry.filename: entry for entry in archive.infolist()}
        pickled = [name for name in self._entries if name.endswith("/data.pkl")]
        if len(pickled) != 1:
            raise zipfile.BadZipFile("it has no data.pkl")
        self._root = pickled[0].removesuffix("data.pkl")

    def load(self, *, inert: bool) -> Any:
        if f"{self._root}byteorder" in self._entries and self._content("byteorder") != b"little":
            raise pickle.UnpicklingError("its numbers are big-endian; save it again on a little-endian machine")
        stream = io.BytesIO(self._content("data.pkl"))
        return pickles.load(stream, self._names(), inert=inert, storage=self._storage)

    def _content(self, name: str) -> bytes:
        start, size = self._place(name)
        return self._view.pread(start - self._view.start, size)

    def _place(self, name: str) -> tuple[int, int]:
        """Offset in the file, and size in bytes, of an entry."""
        entry = self._entries.get(self._root + name)
        if entry is None:
            raise zipfile.BadZipFile(f"it has no {name}")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise pickle.UnpicklingError(
                f"{name} is compressed, which torch does not do; save it again with torch.save"
            )
        header = self._view.pread(entry.header_offset, _LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
            raise zipfile.BadZipFile(f"{name} is not where it should be")
        # The local header's own extra field counts; it is where torch pads.
        name_length, extra_length = _LOCAL_HEADER.unpack(header)
        start = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        return self._view.start + start, entry.file_size

    # What pickles name ------------------------------------------------------------------------------------------------

    def _names(self) -> pickles.Names:
        return _NAMES | {
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v3"): self._tensor_of_dtype,
            **dict.fromkeys(_FP8_FUNCTIONS, self._float8),
            **dict.fromkeys(itertools.product(("builtins", "__builtin__"), ("getattr",)), self._getattr),
        }

    def _storage(self, pid: Any) -> _Storage:
        _, storage, key, _, _ = pid
        dtype = None if storage == _UNTYPED else _BY_STORAGE.get(storage)
        if dtype is None and storage != _UNTYPED:
            raise pickle.UnpicklingError(f"it holds numbers of torch.{storage}, which no weights have")
        return _Storage(*self._place(f"data/{key}"), dtype)

    def _tensor(self, storage: _Storage, start: int, shape: Any, strides: Any, *_: Any) -> TensorRef:
        return self._tensor_of_dtype(storage, start, shape, strides, None, None, None)

    def _tensor_of_dtype(
        self, storage: _Storage, start: int, shape: Any, strides: Any, _: Any, __: Any, name: str | None, *___: Any
    ) -> TensorRef:
        dtype = storage.dtype or DTYPES[str(name)]
        shape, strides = tuple(shape), tuple(strides)
        last = start + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if min(start, *shape, *strides) < 0 or (math.prod(shape) and (last + 1) * dtype.itemsize > storage.num_bytes):
            raise ValueError(f"a tensor {list(shape)} reaches beyond its {storage.num_bytes} bytes")
        return TensorRef(dtype, shape, strides, storage.offset + start * dtype.itemsize, None)

    def _float8(self, data: TensorRef | None, kind: Any, scale: TensorRef, *_: Any) -> TensorRef:
        """A parameter of Transformer Engine: bytes, and the number that they all are multiplied with."""
        if data is None:
            raise pickle.UnpicklingError("of an FP8 weight only the transpose is there; save it in bf16")
        number = self._view.pread(scale.offset - self._view.start, scale.dtype.itemsize)
        value = float(np.frombuffer(number, scale.dtype.numpy)[0])
        return TensorRef(_FP8_KINDS[_number(kind)], data.shape, data.strides, data.offset, value)

    def _getattr(self, cls: Any, name: str) -> Any:
        """Transformer Engine's class methods are pickled as attributes of their class."""
        if cls == _FP8_CLASS and name == "_make_in_reduce_ex":
            return self._float8
        if cls is _refuse_blocks:
            return cls
        raise pickle.UnpicklingError(f"it asks for an attribute {name}, which no checkpoint needs")


#: Of a zip: lengths of name and of extra field.
_LOCAL_HEADER = struct.Struct("<26xHH")


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _subclass(function: Callable[..., Any], _: Any, arguments: Any, __: Any) -> Any:
    """Tensors with attributes, or of a class of their own."""
    return function(*arguments)


def _refuse_blocks(*_: Any) -> Any:
    raise pickle.UnpicklingError(
        "its weights are FP8 or FP4 with a scale for every block (MXFP8, blockwise, NVFP4), which is not read; "
        "save the checkpoint with bf16 weights (Megatron-LM: without --fp8-param-gather)"
    )


# Transformer Engine 1.7 to 2.18: transformer_engine/pytorch/tensor/*.py, `__reduce_ex__`. Megatron does not make bf16 of FP8 weights
# when it saves (only when it loads), but moves them to the CPU, and that did until 2.15: only later FP8 lies in a checkpoint of
# Megatron's, and a pickle of the tensor itself in others.
_TE = "transformer_engine.pytorch"
_FP8_CLASS = "Float8Tensor"
_FP8_MODULES = (f"{_TE}.float8_tensor", f"{_TE}.tensor.float8_tensor")
_FP8_FUNCTIONS = tuple((module, "_make_float8_tensor_in_reduce_ex") for module in _FP8_MODULES)
_BLOCK_SCALED = {
    (f"{_TE}.tensor.{module}", name): _refuse_blocks
    for module, cls, function in (
        ("mxfp8_tensor", "MXFP8Tensor", "_make_mxfp8_tensor_in_reduce_ex"),
        ("float8_blockwise_tensor", "Float8BlockwiseQTensor", "_make_float8_blockwise_tensor_in_reduce_ex"),
        ("nvfp4_tensor", "NVFP4Tensor", "_make_nvfp4_tensor_in_reduce_ex"),
    )
    for name in (cls, function)
}
#: E4M3 and E5M2 were 6 and 7 until 2.3, and are 7 and 8 since. A 7 is E4M3: Transformer Engine has gradients in E5M2, but no
#: weights.
_FP8_KINDS = {6: FP8_E4M3, 7: FP8_E4M3, 8: FP8_E5M2}


def _number(kind: CalledRecord) -> int:
    """Of an enum, which pybind pickles with its number as state, and later versions of Transformer Engine as an argument."""
    found: int = kind.arguments[0] if hasattr(kind, "arguments") else kind.state  # type: ignore[attr-defined]
    return found


#: What every archive may name. Dtypes and storages are strings, and the two functions hold nothing that a pickle could change
#: to its use.
_NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): dict,
    ("torch", "Size"): tuple,
    ("torch", "device"): CalledRecord,
    ("torch", "Tensor"): CalledRecord,
    ("torch.nn.parameter", "Parameter"): CalledRecord,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _subclass,
    ("torch.storage", _UNTYPED): _UNTYPED,
    **{("torch", name): name for name in (*DTYPES, *_BY_STORAGE)},
    **dict.fromkeys(((module, _FP8_CLASS) for module in _FP8_MODULES), _FP8_CLASS),
    **{
        (module, "DType"): CalledRecord
        for module in ("transformer_engine_torch", "transformer_engine_extensions", f"{_TE}.constants")
    },
    **_BLOCK_SCALED,
}


# Writing --------------------------------------------------------------------------------------------------------------


def tensor_parts(dtype: Dtype, shape: tuple[int, ...]) -> tuple[bytes, bytes]:
    """What stands before and after the numbers in the archive of one tensor."""
    numbers = math.prod(shape)
    storage = Persistent(("storage", Global("torch", dtype.storage), "0", "cpu", numbers))
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    hooks = Call(Global("collections", "OrderedDict"), ())
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    writer = _begin(Call(rebuild, (storage, 0, shape, strides, False, hooks)))
    before = writer.leave_room("archive/data/0", numbers * dtype.itemsize)
    return before, _end(writer)


def dumps(value: Any) -> bytes:
    """An archive of dicts, lists, tuples, numbers and strings."""
    return _end(_begin(value))


def _begin(value: Any) -> ZipWriter:
    writer = ZipWriter()
    writer.add("archive/data.pkl", pickles.dumps(value))
    writer.add("archive/byteorder", b"little")
    return writer


def _end(writer: ZipWriter) -> bytes:
    # the version of torch's format since 1.6
    writer.add("archive/version", b"3\n")
    return writer.finish()
