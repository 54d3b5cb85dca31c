"""How fast a step was and what it took: the part of a metrics row that a clock and a memory counter say."""

import os
import time
from pathlib import Path

import torch

from megatron_octo.training import estimate, megatron
from megatron_octo.training.config import MidTraining

TERA = 1e12


class Meter:
    """Turns a step's seconds into tokens/s per GPU, model TFLOP/s per GPU (Megatron's count of FLOPs), MFU and memory.

    MFU is a share of the card's dense bf16 peak, whatever the precision; it is left out where the peak is not known.
    """

    def __init__(self, recipe: MidTraining, world_size: int) -> None:
        self.tokens = recipe.tokens_per_step
        self.world_size = world_size
        self.flops_per_token = estimate.flops_per_token(recipe.model, recipe.seq_length)
        on_gpu = megatron.device().type == "cuda"
        self.peak_flops = estimate.peak_flops(torch.cuda.get_device_name()) if on_gpu else None

    def row(self, seconds: float) -> dict[str, float]:
        per_gpu = self.tokens / seconds / self.world_size
        flops = per_gpu * self.flops_per_token
        return {
            "unix_seconds": time.time(),
            "seconds": seconds,
            "tokens_per_second": per_gpu * self.world_size,
            "tokens_per_second_per_gpu": per_gpu,
            "model_tflops_per_gpu": flops / TERA,
            **({"mfu": flops / self.peak_flops} if self.peak_flops is not None else {}),
            "memory_gib": memory_bytes() / 2**30,
        }


def memory_bytes() -> int:
    """The most that was allocated on this rank's GPU so far; on the CPU what the process holds now."""
    if megatron.device().type == "cuda":
        return torch.cuda.max_memory_allocated()
    statm = Path("/proc/self/statm")
    pages = int(statm.read_text().split()[1]) if statm.exists() else 0
    return pages * os.sysconf("SC_PAGE_SIZE")
