"""Two steps of a small model with Megatron-Core's CUDA graphs per layer, on a CPU: `python layer_graphs.py` prints what shares memory.

Only the graphs themselves are stand-ins: what is captured runs once, with a note of the tensors that autograd keeps, and a replay does
nothing. Which buffer is whose is decided by Megatron-Core's own code, before anything is replayed.
"""

import collections
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import tiny_training
import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.tensor_parallel import random
from megatron.core.transformer import cuda_graphs
from megatron.core.transformer.transformer_layer import TransformerLayer

from megatron_octo.training import megatron


class Graph:
    """In the place of `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        self.kept: set[int] = set()

    def register_generator_state(self, _: Any) -> None: ...

    def replay(self) -> None: ...


@contextlib.contextmanager
def capture(graph: Graph, **_: Any) -> Iterator[None]:
    """In the place of `torch.cuda.graph`."""

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        graph.kept.add(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield


class View:
    """A module with other names put in front."""

    def __init__(self, base: Any, **instead: Any) -> None:
        self.base = base
        vars(self).update(instead)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)


def nothing(*_: Any) -> None: ...


def use_stand_ins() -> None:
    idle = ("synchronize", "empty_cache", "graph_pool_handle", "Stream", "set_stream", "default_stream")
    cuda = View(
        torch.cuda, CUDAGraph=Graph, graph=capture, memory_stats=lambda: collections.defaultdict(int), device_count=lambda: 0,
        get_device_capability=lambda: (9, 0), **dict.fromkeys(idle, nothing),
    )  # fmt: skip
    cuda_graphs.torch = View(torch, cuda=cuda)
    cuda_graphs.get_all_rng_states = dict
    random.get_cuda_rng_tracker().use_cudagraphable_rng = True


def forward_step(batches: Iterator[torch.Tensor], model: torch.nn.Module) -> Any:
    tokens = next(batches)
    loss = model(tokens, torch.arange(tokens.shape[1])[None], None, labels=tokens)
    return loss, lambda output: (output.float().mean(), {})


def main() -> None:
    recipe = tiny_training.phase("graphs", steps=4)
    megatron.initialize(recipe.parallelism, recipe.seed)
    use_stand_ins()
    config = megatron.transformer_config(
        recipe.model, recipe.parallelism, recipe.precision, cuda_graph_impl="local", cuda_graph_scope=[]
    )
    model = megatron.wrap(megatron.build_gpt(recipe.model, config), recipe)
    for _ in range(2):  # the first records and captures, the second replays
        batches = [torch.randint(recipe.model.vocab_size, (1, recipe.seq_length)) for _ in range(2)]
        get_forward_backward_func()(
            forward_step_func=forward_step, data_iterator=iter(batches), model=model, num_microbatches=2,
            seq_length=recipe.seq_length, micro_batch_size=1, forward_only=False,
        )  # fmt: skip
    layers = [module for module in model[0].modules() if isinstance(module, TransformerLayer)]
    (first,), (last,) = layers[0].cudagraph_manager.cudagraph_runners, layers[-1].cudagraph_manager.cudagraph_runners
    entering = first.fwd_graph_input_surface[0].data_ptr()
    found = {
        "kept for the first layer's backward pass": entering in first.fwd_graph.kept,
        "overwritten by the gradient that enters the last": entering == last.static_grad_outputs[0].data_ptr(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
