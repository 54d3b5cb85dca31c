"""AdamW under Megatron's optimizers: one kernel, and a checkpoint that leaves this optimizer's way of computing alone."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from megatron_octo.training import torch_adam

STEPS = 5
#: fp32 sums in another order.
TOLERANCE = 1e-6


def adam(seed: int = 0) -> torch.optim.AdamW:
    random = torch.Generator().manual_seed(seed)
    parameters = [torch.nn.Parameter(torch.randn(size, generator=random)) for size in (3, 70)]
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1)


def held(optimizer: torch.optim.Optimizer) -> list[Any]:
    """As Megatron's optimizers hold theirs."""
    return [SimpleNamespace(optimizer=optimizer)]


def take_steps(optimizer: torch.optim.Optimizer, *, first: int, last: int) -> list[torch.Tensor]:
    (group,) = optimizer.param_groups
    for step in range(first, last):
        for parameter in group["params"]:
            parameter.grad = torch.full_like(parameter, 0.1) * (step - 1.5) + 0.01 * parameter.detach()
        optimizer.step()
    return [parameter.detach().clone() for parameter in group["params"]]


def load(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    torch_adam.prepare_load(held(optimizer))
    optimizer.load_state_dict(copy.deepcopy(saved))
    torch_adam.finish_load(held(optimizer))


class EnginesAdam(torch.optim.Optimizer):
    """What Transformer Engine's FusedAdam reads of its groups in a step, with its defaults; and what it takes for state."""

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        super().__init__(
            parameters, {"lr": 0.01, "bias_correction": True, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        types = {"exp_avg": torch.float32, "exp_avg_sq": torch.float32, "master_param": torch.float32}
        for state in state_dict["state"].values():
            for name in state:
                assert types[name] is torch.float32  # KeyError for any other, as there


def test_the_fused_kernel_takes_the_same_steps() -> None:
    plain, fused = adam(), adam()
    torch_adam.fuse(held(fused))
    for one, two in zip(take_steps(plain, first=0, last=STEPS), take_steps(fused, first=0, last=STEPS), strict=True):
        torch.testing.assert_close(one, two, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("saved_fused", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_a_run_goes_on_in_its_own_way(saved_fused: bool, fused: bool) -> None:
    unbroken = take_steps(adam(), first=0, last=2 * STEPS)
    first, second = adam(), adam()
    for optimizer, wanted in ((first, saved_fused), (second, fused)):
        if wanted:
            torch_adam.fuse(held(optimizer))
    weights = take_steps(first, first=0, last=STEPS)
    with torch.no_grad():
        for parameter, weight in zip(second.param_groups[0]["params"], weights, strict=True):
            parameter.copy_(weight)
    load(second, first.state_dict())
    assert bool(second.param_groups[0]["fused"]) is fused
    for one, two in zip(take_steps(second, first=STEPS, last=2 * STEPS), unbroken, strict=True):
        torch.testing.assert_close(one, two, rtol=TOLERANCE, atol=TOLERANCE)


def test_settings_of_another_adam_do_not_replace_ones_own() -> None:
    saved = adam()
    take_steps(saved, first=0, last=STEPS)
    state = saved.state_dict()
    state["param_groups"][0] |= {"lr": 0.5, "step": 5.0}  # Megatron's distributed optimizer writes torch's steps there
    engines = EnginesAdam([torch.nn.Parameter(torch.zeros(size)) for size in (3, 70)])
    load(engines, state)
    (group,) = engines.param_groups
    assert group["bias_correction"] is True
    assert isinstance(group["step"], int)
    assert (group["step"], group["lr"]) == (5, 0.5)


def test_a_branch_has_its_own_betas() -> None:
    """Its first lines say so."""
    parent, branch = adam(), adam()
    take_steps(parent, first=0, last=STEPS)
    branch.defaults |= {"betas": (0.8, 0.99), "eps": 1e-6}
    load(branch, parent.state_dict())
    (group,) = branch.param_groups
    assert (group["betas"], group["eps"]) == ((0.8, 0.99), 1e-6)


def test_steps_counted_for_the_group_are_those_of_each_parameter() -> None:
    """What Transformer Engine's writes into a checkpoint, where the optimizer is not distributed."""
    unbroken = take_steps(adam(), first=0, last=2 * STEPS)
    first, second = adam(), adam()
    weights = take_steps(first, first=0, last=STEPS)
    with torch.no_grad():
        for parameter, weight in zip(second.param_groups[0]["params"], weights, strict=True):
            parameter.copy_(weight)
    saved = first.state_dict()
    for state in saved["state"].values():
        del state["step"]
    saved["param_groups"][0]["step"] = STEPS
    torch_adam.prepare_load(held(second))
    second.load_state_dict(saved)
    torch_adam.finish_load(held(second))
    for one, two in zip(take_steps(second, first=STEPS, last=2 * STEPS), unbroken, strict=True):
        torch.testing.assert_close(one, two, rtol=TOLERANCE, atol=TOLERANCE)
