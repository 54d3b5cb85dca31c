"""The number format of a run."""

import enum
from dataclasses import dataclass


class Precision(enum.Enum):
    """Number format of weights and activations; gradients are reduced and accumulated in fp32."""

    FP32 = "fp32"
    BF16 = "bf16"
    #: bf16 with the layers' matrix products in fp8: Transformer Engine on Hopper or newer, nowhere else.
    FP8 = "fp8"


class Fp8Recipe(enum.Enum):
    """How fp8 tensors are scaled, in Megatron's words."""

    DELAYED = "delayed"
    #: Current scaling, one factor per tensor.
    TENSORWISE = "tensorwise"
    BLOCKWISE = "blockwise"


class Fp8Format(enum.Enum):
    """E4M3 throughout, or E5M2 for gradients (hybrid)."""

    E4M3 = "e4m3"
    HYBRID = "hybrid"


@dataclass(frozen=True, kw_only=True)
class Fp8:
    """Without effect unless the precision is fp8. Current scaling is what NVIDIA's published H100 runs use."""

    recipe: Fp8Recipe = Fp8Recipe.TENSORWISE
    format: Fp8Format = Fp8Format.HYBRID


#: Transformer Engine multiplies fp8 matrices whose sides are multiples of it.
FP8_MULTIPLE = 16
