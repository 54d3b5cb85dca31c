"""Lets the unmodified wheel of megatron-core run on a machine without CUDA.

Megatron-Core writes "the current CUDA device" in few spellings: `device="cuda"`, `torch.cuda.current_device()`, `tensor.cuda()`,
`tensor.type() == "torch.cuda.FloatTensor"`, plus `torch.cuda.synchronize()` and the CUDA random state. `install()` gives an
explicit list of its modules a view of torch in which those spellings mean the CPU. torch itself stays as it is for everybody
else, except `Tensor.cuda` and `Tensor.type`, which answer differently to callers inside megatron.core only.

Not installed, not even imported, when a CUDA device is used. Made for two versions and refuses others: the list of modules
holds for those and is checked by tests/integration/test_cpu.py, which leaves each stand-in out and watches what breaks.
"""

import functools
import importlib
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

import torch

from megatron_octo.compatibility import MEGATRON_CORE

CPU = torch.device("cpu")

#: Modules of megatron.core that name the CUDA device on the paths we take.
MODULES = (
    "utils",
    "tensor_parallel.random",
    "tensor_parallel.layers",
    "tensor_parallel.mappings",
    "models.common.embeddings.rotary_pos_embedding",
    "models.common.embeddings.rope_utils",
    "pipeline_parallel.p2p_communication",
    "pipeline_parallel.schedules",
    "distributed.param_and_grad_buffer",
    "optimizer.clip_grads",
    "optimizer.optimizer",
    "optimizer.distrib_optimizer",
    "dist_checkpointing.exchange_utils",
    "dist_checkpointing.strategies.async_utils",
    "dist_checkpointing.strategies.filesystem_async",
    "dist_checkpointing.strategies.fully_parallel",
    "dist_checkpointing.strategies.state_dict_saver",
)
#: Functions of torch to which they give the device by its name, or ask for pinned memory.
FACTORIES = ("empty_like", "tensor", "zeros")
#: Names of torch.cuda that they use.
CUDA: dict[str, Any] = {
    "current_device": lambda: CPU,
    "synchronize": lambda *_, **__: None,
    "get_rng_state": lambda *_, **__: torch.get_rng_state(),
    "random": types.SimpleNamespace(get_rng_state=lambda *_, **__: torch.get_rng_state()),
    "manual_seed": torch.manual_seed,
}


def install(*, without: Iterable[str] = ()) -> None:
    """Redirect megatron.core to the CPU, once per process.

    Args:
        without: names of `STAND_INS` to leave alone; for the test that shows each of them is needed.
    """
    import megatron.core

    assert not torch.cuda.is_available(), "the CPU stand-ins are for machines without CUDA"
    assert megatron.core.__version__ in MEGATRON_CORE, (
        f"the CPU stand-ins were made for megatron-core {' and '.join(MEGATRON_CORE)}, not {megatron.core.__version__}"
    )
    left_out = frozenset(without)
    view = _torch_on_cpu(left_out)
    for name in MODULES:
        module = importlib.import_module(f"megatron.core.{name}")
        if name not in left_out and module.torch is not view:
            assert module.torch is torch, f"{name} was redirected before"
            module.torch = view  # type: ignore[attr-defined]
    for name, redirect in ELSEWHERE.items():
        if name not in left_out:
            redirect()


class _View(types.ModuleType):
    """Reads through to `base`, except for the names given."""

    def __init__(self, base: types.ModuleType, **instead: Any) -> None:
        super().__init__(base.__name__)
        self.__dict__.update(instead)
        self.__dict__["_base"] = base

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_base"], name)


@functools.cache
def _torch_on_cpu(left_out: frozenset[str]) -> _View:
    on_cuda = {name: stand_in for name, stand_in in CUDA.items() if f"torch.cuda.{name}" not in left_out}
    factories = {name: _factory_on_cpu(getattr(torch, name)) for name in FACTORIES if f"torch.{name}" not in left_out}
    return _View(torch, cuda=_View(torch.cuda, **on_cuda), **factories)


def _factory_on_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(factory)
    def on_cpu(*args: Any, **kwargs: Any) -> Any:
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs["device"] = CPU
        if kwargs.get("pin_memory"):  # pinning needs an accelerator
            kwargs["pin_memory"] = False
        return factory(*args, **kwargs)

    return on_cpu


def _redirect_rng() -> None:
    # torch.cuda._lazy_call queues the callback on a machine without CUDA and never runs it: the fork of the random state would
    # silently not happen.
    module = importlib.import_module("megatron.core.tensor_parallel.random")
    module._set_cuda_rng_state = lambda state, device=-1, graph_safe=False: torch.set_rng_state(state)  # type: ignore[attr-defined]


def _redirect_tensor_cuda() -> None:
    original = torch.Tensor.cuda

    def cuda(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self if _called_by_megatron() else original(self, *args, **kwargs)

    torch.Tensor.cuda = cuda  # type: ignore[method-assign,assignment]


def _redirect_tensor_type() -> None:
    original = torch.Tensor.type

    def type_(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        answer = original(self, *args, **kwargs)
        if isinstance(answer, str) and _called_by_megatron():
            return answer.replace("torch.", "torch.cuda.", 1)
        return answer

    torch.Tensor.type = type_  # type: ignore[method-assign,assignment]


def _called_by_megatron() -> bool:
    return str(sys._getframe(2).f_globals.get("__name__", "")).startswith("megatron.core")


#: What is not found through a module's name `torch`.
ELSEWHERE = {"set_rng_state": _redirect_rng, "Tensor.cuda": _redirect_tensor_cuda, "Tensor.type": _redirect_tensor_type}
STAND_INS = (
    *MODULES, *ELSEWHERE, *(f"torch.{name}" for name in FACTORIES), *(f"torch.cuda.{name}" for name in CUDA)
)  # fmt: skip
