"""A step's seconds as throughput, FLOPs and utilisation."""

import time

import pytest
import torch
from small_phase import stable

from megatron_octo.training.meter import Meter

#: 6 x (3 layers x (query, key and value 96x96 and 2 x 96x48, output 96x96, FFN 3 x 96x256) + table 384x96) + 6 x 3 x 96 x 256.
FLOPS_PER_TOKEN = 6 * (3 * (9_216 + 9_216 + 9_216 + 73_728) + 36_864) + 442_368


def test_four_ranks_make_a_step_in_half_a_second() -> None:
    before = time.time()
    row = Meter(stable(), 4).row(0.5)
    assert before <= row["unix_seconds"] <= time.time()
    assert (row["seconds"], row["tokens_per_second"], row["tokens_per_second_per_gpu"]) == (0.5, 8192, 2048)
    assert row["model_tflops_per_gpu"] == pytest.approx(2048 * FLOPS_PER_TOKEN / 1e12, rel=1e-12)  # a product of floats


def test_utilisation_is_a_share_of_a_known_peak() -> None:
    meter = Meter(stable(), 4)
    meter.peak_flops = 2048 * FLOPS_PER_TOKEN * 4
    assert meter.row(0.5)["mfu"] == 0.25
    meter.peak_flops = None
    assert "mfu" not in meter.row(0.5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="counts this process's memory where there is no GPU")
def test_memory_of_the_process_is_counted() -> None:
    meter = Meter(stable(), 1)
    before = meter.row(1.0)["memory_gib"]
    held = torch.ones(2**26)  # 256 MiB
    assert held.nbytes == 2**28
    # A quarter GiB more; the allocator may give some of its own back meanwhile.
    assert 0.2 < meter.row(1.0)["memory_gib"] - before < 0.3
