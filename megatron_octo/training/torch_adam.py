"""Mends for Megatron's distributed optimizer around torch's AdamW, which it uses where neither Transformer Engine nor Apex is.

Three defects of megatron-core 0.16.1 on that path (found by comparing resumed with unbroken runs; the third is silent):

1. loading, and saving, assert that the optimizer has taken a step, which a fresh one has not, nor one whose first steps were left out;
2. loading asks the checkpoint for `step`, which is stored once per group and not per parameter (KeyError);
3. after loading, all parameters share one `step` tensor, AdamW adds 1 to it per parameter, and its bias correction is wrong.
"""

from collections.abc import Sequence
from typing import Any

import torch
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer


def prepare_load(optimizers: Sequence[Any]) -> None:
    """Mends 1 and 2; call on the optimizers before `sharded_state_dict(is_loading=True)`."""
    for optimizer in optimizers:
        if not isinstance(optimizer.optimizer, torch.optim.AdamW):
            continue
        _fill_state(optimizer.optimizer)
        if isinstance(optimizer, DistributedOptimizer):
            _supply_step(optimizer)


def prepare_save(optimizers: Sequence[Any]) -> None:
    """Mend 1; call before `sharded_state_dict`."""
    for optimizer in optimizers:
        if isinstance(optimizer.optimizer, torch.optim.AdamW):
            _fill_state(optimizer.optimizer)


def finish_load(optimizers: Sequence[Any]) -> None:
    """Mend 3; call after `load_state_dict`."""
    for optimizer in optimizers:
        if isinstance(optimizer.optimizer, torch.optim.AdamW):
            for state in optimizer.optimizer.state.values():
                state["step"] = state["step"].clone()


def _fill_state(adam: torch.optim.AdamW) -> None:
    for group in adam.param_groups:
        for parameter in group["params"]:
            if not adam.state[parameter]:
                zeros = torch.zeros_like(parameter.data)
                adam.state[parameter] = {"step": torch.tensor(0.0), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}


def _supply_step(optimizer: DistributedOptimizer) -> None:
    original = optimizer._set_main_param_and_optimizer_states

    def with_step(model_parameter: torch.Tensor, tensors: dict[str, torch.Tensor]) -> None:
        group, index = optimizer.model_param_group_index_map[model_parameter]
        state = optimizer.optimizer.state[optimizer.optimizer.param_groups[group]["params"][index]]
        original(model_parameter, {"step": state["step"], **tensors})

    optimizer._set_main_param_and_optimizer_states = with_step
