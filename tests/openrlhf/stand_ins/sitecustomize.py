"""Makes OpenRLHF 0.11.2 and vLLM's CPU build run without CUDA: Python loads this file first in every process.

The driver, Ray's workers and vLLM's engine processes all inherit PYTHONPATH, and with it this folder. Nothing installed
is changed on disk: each stand-in below waits for one module to be imported and replaces a few of its names.
"""

import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Sequence


def torch_without_cuda(torch: types.ModuleType) -> None:
    """OpenRLHF asks for "the current device" everywhere and synchronises it: here that is the CPU, always ready."""
    torch.cuda.current_device = lambda: torch.device("cpu")
    torch.cuda.current_stream = lambda *_: None
    for nothing_to_do in ("synchronize", "empty_cache", "set_device"):
        setattr(torch.cuda, nothing_to_do, lambda *_: None)


class TorchOfOneModule:
    """torch for a module that names "cuda" itself: its devices are the CPU, everything else is torch."""

    def __init__(self, torch: types.ModuleType) -> None:
        self._torch = torch

    def __getattr__(self, name: str) -> object:
        return getattr(self._torch, name)

    def device(self, _: str) -> object:
        return self._torch.device("cpu")


def replay_buffer_on_cpu(module: types.ModuleType) -> None:
    """The buffer's target is the literal device "cuda:<current device>"."""
    module.torch = TorchOfOneModule(module.torch)


def mesh_on_cpu(module: types.ModuleType) -> None:
    """DeepspeedStrategy asks for a mesh of the literal device "cuda"."""
    init_device_mesh = module.init_device_mesh
    module.init_device_mesh = lambda _, *shape, **names: init_device_mesh("cpu", *shape, **names)


class StoreCommunicator:
    """What OpenRLHF uses of PyNcclCommunicator, over the TCP store of the same group: NCCL needs GPUs."""

    def __init__(self, group: object, device: object) -> None:
        self.group = group

    def broadcast(self, tensor: object, src: int, stream: object = None) -> None:
        tensor.copy_(self.group.broadcast(tensor, src))


def weights_through_store(module: types.ModuleType) -> None:
    module.PyNcclCommunicator = StoreCommunicator


def received_weights_on_cpu(module: types.ModuleType) -> None:
    """The vLLM worker receives into torch.empty(..., device="cuda")."""
    import torch

    update_weight = module.WorkerWrap.update_weight

    class Empty(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            return function(*args, **({**(kwargs or {}), "device": "cpu"} if function is torch.empty else kwargs or {}))

    def on_cpu(self, *args, **kwargs):
        with Empty():
            return update_weight(self, *args, **kwargs)

    module.WorkerWrap.update_weight = on_cpu


def weights_as_loaded(module: types.ModuleType) -> None:
    """vLLM's CPU build repacks weights after loading; a repacked one has no weight_loader and takes no new value."""
    import torch

    def plain_linear(layer: object, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    module.dispatch_cpu_unquantized_gemm = plain_linear


def without_flash_attention() -> None:
    """ring_attn_utils imports flash_attn, which is CUDA code, at its top; eager attention calls none of it."""
    names = {
        "flash_attn": (),
        "flash_attn.bert_padding": ("index_first_axis", "pad_input", "rearrange", "unpad_input"),
        "flash_attn.utils": (),
        "flash_attn.utils.distributed": ("all_gather",),
    }
    for name, functions in names.items():
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=not functions)
        module.__path__ = []
        for function in functions:
            setattr(module, function, None)
        sys.modules.setdefault(name, module)


AFTER: dict[str, Callable[[types.ModuleType], None]] = {
    "torch": torch_without_cuda,
    "openrlhf.trainer.ppo_utils.replay_buffer": replay_buffer_on_cpu,
    "openrlhf.utils.deepspeed.deepspeed": mesh_on_cpu,
    "openrlhf.trainer.ray.vllm_worker_wrap": received_weights_on_cpu,
    "vllm.distributed.device_communicators.pynccl": weights_through_store,
    "vllm.model_executor.layers.utils": weights_as_loaded,
}
BEFORE: dict[str, Callable[[], None]] = {"openrlhf.models.ring_attn_utils": without_flash_attention}


class StandIns:
    """A finder in front of Python's own: finds the same file and runs the stand-in around its execution."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in AFTER and name not in BEFORE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            BEFORE.get(name, lambda: None)()
            execute(module)
            AFTER.get(name, lambda _: None)(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, StandIns())
