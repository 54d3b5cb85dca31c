"""Number formats by the names that torch, safetensors and Hugging Face give them, and casting between them. No torch here."""

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from megatron_octo.conversion.config import ExportDtype

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Dtype:
    #: As an attribute of `torch`, and in config.json.
    name: str
    #: In a safetensors header.
    safetensors: str
    #: The class `torch.save` names for the bytes.
    storage: str
    numpy: np.dtype[Any]

    @property
    def itemsize(self) -> int:
        return self.numpy.itemsize


FP32 = Dtype("float32", "F32", "FloatStorage", np.dtype(np.float32))
FP16 = Dtype("float16", "F16", "HalfStorage", np.dtype(np.float16))
BF16 = Dtype("bfloat16", "BF16", "BFloat16Storage", np.dtype(ml_dtypes.bfloat16))
#: What weights are written as.
FLOATS = (FP32, FP16, BF16)
#: Scaled 8-bit weights of Transformer Engine, read only.
FP8_E4M3 = Dtype("float8_e4m3fn", "F8_E4M3", "UntypedStorage", np.dtype(ml_dtypes.float8_e4m3fn))
FP8_E5M2 = Dtype("float8_e5m2", "F8_E5M2", "UntypedStorage", np.dtype(ml_dtypes.float8_e5m2))

#: None: as the source stores them.
EXPORT: dict[ExportDtype, Dtype | None] = {
    ExportDtype.AUTO: None,
    ExportDtype.FP32: FP32,
    ExportDtype.FP16: FP16,
    ExportDtype.BF16: BF16,
}


def cast(numbers: Array, dtype: Dtype, scale: float | None) -> Array:
    """Numbers in another format, rounded to nearest even; scaled first, in fp32, where there is a scale.

    Raises:
        OverflowError: a finite number became infinite, which fp16 does above 65,504.
    """
    if scale is not None:
        numbers = numbers.astype(np.float32) * np.float32(scale)
    with np.errstate(over="ignore"):
        found = numbers.astype(dtype.numpy)
    if dtype is FP16 and np.isinf(found).sum() != np.isinf(numbers).sum():
        raise OverflowError(f"a number is too large for {dtype.name}")
    return found
