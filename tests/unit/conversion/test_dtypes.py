import math

import numpy as np
import pytest
import torch

from megatron_octo.conversion.dtypes import BF16, FP8_E4M3, FP8_E5M2, FP16, FP32, cast

NUMBERS = np.array([0.0, -0.0, 1.0, 1.00390625, 1.01171875, -3.3e38, 1e-40, 65504.0, math.inf, -math.inf], np.float32)


def test_rounds_as_torch_does() -> None:
    random = np.random.default_rng(0).integers(0, 1 << 32, 100_000, np.uint32).view(np.float32)
    numbers = np.concatenate([NUMBERS, random[~np.isnan(random)]])
    expected = torch.from_numpy(numbers).bfloat16()
    assert np.array_equal(cast(numbers, BF16, None).view(np.int16), expected.view(torch.int16).numpy())
    assert np.array_equal(cast(cast(numbers, BF16, None), FP32, None), expected.float().numpy())
    assert math.isnan(cast(np.array([math.nan], np.float32), BF16, None)[0])


def test_fp16_holds_what_fits() -> None:
    assert cast(np.array([65504.0, -1.5, math.inf], np.float32), FP16, None).tolist() == [65504.0, -1.5, math.inf]
    with pytest.raises(OverflowError, match="too large for float16"):
        cast(np.array([65520.0], np.float32), FP16, None)


@pytest.mark.parametrize(("dtype", "kind"), [(FP8_E4M3, torch.float8_e4m3fn), (FP8_E5M2, torch.float8_e5m2)])
def test_fp8_numbers_are_scaled_in_fp32(dtype: object, kind: torch.dtype) -> None:
    del dtype
    stored = torch.tensor([1.0, -0.5, 448.0 if kind is torch.float8_e4m3fn else 57344.0]).to(kind)
    numpy = (FP8_E4M3 if kind is torch.float8_e4m3fn else FP8_E5M2).numpy
    found = cast(stored.view(torch.uint8).numpy().view(numpy), FP32, 0.3)
    assert np.array_equal(found, (stored.float() * torch.tensor(0.3)).numpy())
