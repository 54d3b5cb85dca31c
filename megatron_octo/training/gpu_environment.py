"""Environment variables that a training run on GPUs starts with, each with its reason. Standard library only.

CUDA, torch's allocator and Transformer Engine read them before a line of ours could set them, so the launcher does. What the user has
set stays. We have measured the effect of none: each is what published benchmark recipes start with, and docs/training.md says which.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from megatron_octo.errors import ConfigError
from megatron_octo.training.parallelism import Parallelism

#: Compute capability of Blackwell; Hopper has 9.0.
BLACKWELL = 10.0
#: Megatron-Core's `auto` sets these to 1 itself and asserts that nobody has set them to something else
#: (0.16.1, models/common/language_module/language_module.py:98-126), with Transformer Engine or without.
ATTENTION_SWITCHES = ("NVTE_FLASH_ATTN", "NVTE_FUSED_ATTN", "NVTE_UNFUSED_ATTN")

_BRIDGE_RECIPES = "Megatron-Bridge 71eaba6f, perf_recipes/llama/h100/llama3.py"
_BRIDGE_PLUGIN = "Megatron-Bridge 0022e9da, scripts/performance/perf_plugins.py"


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One variable."""

    name: str
    #: On Hopper and older GPUs.
    value: str
    #: On Blackwell and newer ones; None is the same.
    on_blackwell: str | None = None
    #: What it is for.
    why: str
    #: Where the value comes from.
    source: str
    #: Another name of the same setting: set by the user, it counts as this one.
    other_name: str | None = None

    def value_on(self, compute_capability: float) -> str:
        """The value on a GPU of this compute capability."""
        is_blackwell = compute_capability >= BLACKWELL
        return self.on_blackwell if is_blackwell and self.on_blackwell is not None else self.value

    def is_set(self, environment: Mapping[str, str]) -> bool:
        """Whether the user has decided. An empty value decides nothing: Transformer Engine could not read it as a number."""
        return any(environment.get(name) for name in (self.name, self.other_name) if name is not None)


def variables(layout: Parallelism, *, ranks: int) -> tuple[Variable, ...]:
    """What a run on so many GPUs starts with."""
    return (_segments(), *_queues(layout, ranks), *_margins(layout, ranks))


def unset(found: tuple[Variable, ...], environment: Mapping[str, str], *, compute_capability: float) -> dict[str, str]:
    """Name and value of those that the user has not set, on GPUs of this compute capability."""
    return {each.name: each.value_on(compute_capability) for each in found if not each.is_set(environment)}


def require_attention_is_free(environment: Mapping[str, str]) -> None:
    """Raises `ConfigError` where a switch of Transformer Engine's attention would end every rank in an assertion of Megatron-Core."""
    # An empty value counts here: Megatron-Core compares the text.
    wrong = [f"{name}='{environment[name]}'" for name in ATTENTION_SWITCHES if environment.get(name, "1") != "1"]
    if wrong:
        raise ConfigError(
            f"{', '.join(wrong)} in the environment: Megatron-Core chooses among the attention kernels itself and takes no other value "
            f"than 1; unset {' '.join(ATTENTION_SWITCHES)}"
        )


def _segments() -> Variable:
    return Variable(
        # PYTORCH_ALLOC_CONF in newer versions, which read this name too, and first (2.13, c10/cuda/CUDAAllocatorConfig.h). Megatron-Core's
        # own checks know this name alone.
        name="PYTORCH_CUDA_ALLOC_CONF",
        other_name="PYTORCH_ALLOC_CONF",
        value="expandable_segments:True",
        why="the allocator's segments grow instead of leaving gaps that nothing fits into",
        source=f"{_BRIDGE_RECIPES}; its guide Memory Tuning",
    )


def _queues(layout: Parallelism, ranks: int) -> tuple[Variable, ...]:
    """How many hardware queues the streams share; CUDA's own number is 8. One GPU has no collectives to order."""
    if ranks == 1:
        return ()
    if layout.tensor_model_parallel_size == layout.context_parallel_size == 1:
        return (_queue("32", why="a queue per stream: none waits behind the kernels of another"),)
    # Up to Hopper a persistent matrix product that starts first leaves the collective no SM to run beside it on.
    return (
        _queue("1", on_blackwell="32", why="kernels start as called: a collective before the product that hides it"),
    )


def _queue(value: str, *, why: str, on_blackwell: str | None = None) -> Variable:
    sources = (
        _BRIDGE_RECIPES
        if on_blackwell is None
        else f"megatron-core 0.16.1, tensor_parallel/layers.py:526-558, 728; Megatron-LM d98e8a64, training/arguments.py:1453; {_BRIDGE_PLUGIN}"
    )
    return Variable(name="CUDA_DEVICE_MAX_CONNECTIONS", value=value, on_blackwell=on_blackwell, why=why, source=sources)


def _margins(layout: Parallelism, ranks: int) -> tuple[Variable, ...]:
    """For norms of Transformer Engine; other norms do not read them."""
    # Gradients are reduced over the ranks that hold the same weights: those of the context-parallel group too.
    replicas = ranks // (layout.tensor_model_parallel_size * layout.pipeline_model_parallel_size)
    if not (layout.overlap_p2p_comm or (layout.overlap_grad_reduce and replicas > 1)):
        return ()
    return tuple(
        Variable(
            name=f"NVTE_{which}_LAYERNORM_SM_MARGIN",
            value="20",
            why=f"SMs that norms of the {what} pass leave to collectives beside them",
            source=f"{_BRIDGE_RECIPES}; why: {_BRIDGE_PLUGIN}",
        )
        for which, what in (("FWD", "forward"), ("BWD", "backward"))
    )
