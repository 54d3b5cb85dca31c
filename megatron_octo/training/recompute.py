"""What the backward pass computes again instead of keeping it."""

import enum
from dataclasses import dataclass

from megatron_octo.config import require_positive
from megatron_octo.errors import ConfigError, nearest


class RecomputeGranularity(enum.Enum):
    """What the backward pass computes again instead of keeping it."""

    NONE = "none"
    #: The parts in `modules`.
    SELECTIVE = "selective"
    #: Whole layers; only their inputs are kept.
    FULL = "full"


class RecomputeMethod(enum.Enum):
    #: Every group of `num_layers` layers keeps its input.
    UNIFORM = "uniform"
    #: The first `num_layers` layers of each chunk are recomputed, the others kept.
    BLOCK = "block"


#: Parts of a layer that can be recomputed by themselves; Megatron-Core's others need experts or Transformer Engine.
RECOMPUTE_MODULES = ("core_attn", "mlp")


@dataclass(frozen=True, kw_only=True)
class Recompute:
    """Activation recomputation: memory for time. `num_layers` and `method` belong to full, `modules` to selective."""

    granularity: RecomputeGranularity = RecomputeGranularity.NONE
    method: RecomputeMethod = RecomputeMethod.UNIFORM
    num_layers: int = 1
    modules: tuple[str, ...] = ("core_attn",)

    def __post_init__(self) -> None:
        require_positive(self, "num_layers")
        if not self.modules:
            raise ConfigError(
                f"recompute.modules is empty; name some of {', '.join(RECOMPUTE_MODULES)}, or set granularity=none"
            )
        for module in self.modules:
            if module not in RECOMPUTE_MODULES:
                raise ConfigError(f"'{module}' cannot be recomputed by itself{nearest(module, RECOMPUTE_MODULES)}")
