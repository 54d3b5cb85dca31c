"""Mends for Megatron's optimizers around torch's AdamW, which they use where neither Transformer Engine nor Apex is.

Five defects of megatron-core 0.16.1 (the first three found by comparing resumed with unbroken runs; the third is silent, and so is a part of the fourth):

1. loading, and saving, assert that the optimizer has taken a step, which a fresh one has not, nor one whose first steps were left out;
2. loading asks the checkpoint for `step`, which is stored once per group and not per parameter (KeyError);
3. after loading, all parameters share one `step` tensor, AdamW adds 1 to it per parameter, and its bias correction is wrong;
4. loading puts the settings of the Adam that wrote the checkpoint in the place of this one's. By reading: Transformer Engine's looks for
   `bias_correction` and an integer `step` in each group, and finds neither after torch's; torch's forgets that it was fused. A branch with other
   betas or epsilon than its parent would train with the parent's;
5. an optimizer that is not distributed hands on `step` where the writing Adam had it: torch's with each parameter, where Transformer Engine's raises
   KeyError, and Transformer Engine's with the group, where torch's does.
"""

from collections.abc import Sequence
from typing import Any

import torch
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

#: Settings that `megatron.set_learning_rate` writes before every step.
SET_EACH_STEP = ("lr", "weight_decay")


def fuse(optimizers: Sequence[Any]) -> None:
    """Have torch's AdamW update each parameter in one kernel; call before the first step or load.

    What torch does on a GPU by default makes several passes, and intermediate results of 4 bytes per parameter at once.
    """
    for optimizer in optimizers:
        if isinstance(optimizer.optimizer, torch.optim.AdamW):
            for settings in (optimizer.optimizer.defaults, *optimizer.optimizer.param_groups):
                settings |= {"fused": True, "foreach": False}


def prepare_load(optimizers: Sequence[Any]) -> None:
    """Mends 1, 2 and 5; call on the optimizers before `sharded_state_dict(is_loading=True)`."""
    for optimizer in optimizers:
        optimizer.optimizer.register_load_state_dict_pre_hook(_place_steps)
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
    """Mends 3 and 4; call after `load_state_dict`."""
    for optimizer in optimizers:
        adam = optimizer.optimizer
        _restore_settings(adam)
        if isinstance(adam, torch.optim.AdamW):
            for parameter, state in adam.state.items():
                state["step"] = state["step"].to(_step_device(adam, parameter), copy=True)


def _restore_settings(adam: torch.optim.Optimizer) -> None:
    """The state comes from the checkpoint, what is done with it from this run's recipe and machine."""
    for group in adam.param_groups:
        group |= {name: value for name, value in adam.defaults.items() if name not in SET_EACH_STEP}
        if "step" in group:
            group["step"] = int(group["step"])


def _place_steps(adam: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Torch's AdamW has the number of steps with each parameter, the others once per group."""
    for group in saved["param_groups"]:
        for state in (saved["state"][index] for index in group["params"] if saved["state"].get(index)):
            if isinstance(adam, torch.optim.AdamW):
                state.setdefault("step", torch.tensor(float(group.get("step", 0))))
            elif "step" in state:
                group["step"] = int(state.pop("step"))


def _fill_state(adam: torch.optim.AdamW) -> None:
    for group in adam.param_groups:
        for parameter in group["params"]:
            if not adam.state[parameter]:
                zeros = torch.zeros_like(parameter.data)
                step = torch.tensor(0.0, device=_step_device(adam, parameter))
                adam.state[parameter] = {"step": step, "exp_avg": zeros, "exp_avg_sq": zeros.clone()}


def _step_device(adam: torch.optim.AdamW, parameter: torch.Tensor) -> torch.device:
    """Where torch keeps the number of steps: beside the parameter for its fused kernel, else on the CPU."""
    return parameter.device if adam.defaults["fused"] else torch.device("cpu")


def _supply_step(optimizer: DistributedOptimizer) -> None:
    original = optimizer._set_main_param_and_optimizer_states

    def with_step(model_parameter: torch.Tensor, tensors: dict[str, torch.Tensor]) -> None:
        group, index = optimizer.model_param_group_index_map[model_parameter]
        state = optimizer.optimizer.state[optimizer.optimizer.param_groups[group]["params"][index]]
        original(model_parameter, {"step": state["step"], **tensors})

    optimizer._set_main_param_and_optimizer_states = with_step
