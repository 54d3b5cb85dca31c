"""Called in every rank before it trains (`prelude` of ranks.py): leaves out CPU stand-ins, and looks at what breaks in silence."""

import functools

import torch
from megatron.core.tensor_parallel import get_cuda_rng_tracker

from megatron_octo.training import cpu, megatron
from megatron_octo.training.parallelism import Parallelism


def leave_out(names: list[str]) -> None:
    cpu.install = functools.partial(cpu.install, without=names)
    initialize = megatron.initialize

    def initialize_and_check(parallelism: Parallelism, seed: int, **options: float) -> megatron.Ranks:
        ranks = initialize(parallelism, seed, **options)
        check_random_state()
        return ranks

    megatron.initialize = initialize_and_check


def check_random_state() -> None:
    """Megatron's named random states work on the CPU's generator. Two of the stand-ins raise nothing when they are missing."""
    outside, tracker = torch.get_rng_state(), get_cuda_rng_tracker()
    tracker.add("probe", 7)
    with tracker.fork("probe"):
        drawn = torch.rand(3)
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(7))), "the forked state is another"
    assert torch.equal(torch.get_rng_state(), outside), "the fork disturbs the state outside"
