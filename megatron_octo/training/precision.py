"""The number format of a run."""

import enum
from dataclasses import dataclass

from megatron_octo.errors import ConfigError


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
    #: Layers at either end of the model that stay in bf16, where rounding hurts the loss most. Megatron-Bridge's recipe for current
    #: scaling keeps one at each. The memory estimate counts them as fp8.
    num_layers_at_start_in_bf16: int = 0
    num_layers_at_end_in_bf16: int = 0

    def __post_init__(self) -> None:
        ends = (self.num_layers_at_start_in_bf16, self.num_layers_at_end_in_bf16)
        if min(ends) < 0:
            raise ConfigError(f"layers that stay in bf16: {ends[0]} at the start, {ends[1]} at the end; give 0 or more")
        if self.recipe is Fp8Recipe.DELAYED and any(ends):
            raise ConfigError(
                "fp8.recipe delayed keeps no layers in bf16: its scales are reduced once for all layers; take tensorwise or blockwise, or "
                "set num_layers_at_start_in_bf16 and num_layers_at_end_in_bf16 to 0"
            )


#: Transformer Engine multiplies fp8 matrices whose sides are multiples of it.
FP8_MULTIPLE = 16

#: Least compute capability of a GPU: Ada is 8.9, Hopper 9.0.
FP8_CAPABILITY = {Fp8Recipe.DELAYED: (8, 9), Fp8Recipe.TENSORWISE: (8, 9), Fp8Recipe.BLOCKWISE: (9, 0)}

#: Least Transformer Engine (megatron-core 0.16.1, fp8_utils.py:551-586, which finds an older one in the first forward pass); any has delayed scaling.
FP8_TRANSFORMER_ENGINE = {Fp8Recipe.TENSORWISE: "2.2.0", Fp8Recipe.BLOCKWISE: "2.3.0"}


def why_no_fp8(recipe: Fp8Recipe, capability: tuple[int, int]) -> str | None:
    """What a GPU of this compute capability lacks; None where it can."""
    least = FP8_CAPABILITY[recipe]
    if capability >= least:
        return None
    has, needs = (".".join(map(str, version)) for version in (capability, least))
    return f"fp8.recipe {recipe.value} takes a GPU of compute capability {needs}, this one has {has}"
