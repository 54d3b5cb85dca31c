"""Estimated against measured peak memory of training, for models of three sizes (on a GPU: Llama-3.2-1B):

    python benchmarks/memory.py

Each case is a process of its own that takes steps of the training loop on random tokens, on one rank: one core, or one GPU where
there is one. Measured is what the process came to hold beyond what it held after imports and start-up: on the CPU its resident set
(`VmHWM`; large blocks are given back at once, so that the allocator's habits do not count), on a GPU torch's allocated bytes.
Takes about three minutes and 8 GB of memory.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from megatron_octo.recipes import llama32_1b
from megatron_octo.shards import ShardReader, ShardWriter
from megatron_octo.training import estimate, loop, megatron, spec
from megatron_octo.training.blend import blend
from megatron_octo.training.checkpoint import Progress
from megatron_octo.training.config import MidTraining, ModelConfig
from megatron_octo.training.data import SampleOrder, TokenStream
from megatron_octo.training.memory import Memory, memory
from megatron_octo.training.meter import Meter
from megatron_octo.training.precision import Precision
from megatron_octo.training.recompute import Recompute, RecomputeGranularity
from megatron_octo.training.saving import Saver
from megatron_octo.training.schedule import LearningRateStyle, Schedule
from megatron_octo.training.state import StopSignal
from megatron_octo.training.watchdog import Watchdog

#: The second is the first with the optimizer's state in place.
STEPS = 2
#: Far from the share of the peak that differs from run to run.
WITHIN = 0.10
#: glibc: blocks above 64 KiB come from the kernel and go back to it.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_MMAP_MAX_": "1000000"}


@dataclass(frozen=True, kw_only=True)
class Case:
    model: ModelConfig
    seq_length: int
    precision: Precision
    recompute: Recompute


def llama(*, num_layers: int, hidden_size: int, vocab_size: int) -> ModelConfig:
    """Llama-3.2's proportions; the smaller two tie their tables as its 1B does."""
    return ModelConfig(
        num_layers=num_layers, hidden_size=hidden_size, ffn_hidden_size=hidden_size * 7 // 2 // 64 * 64,
        num_attention_heads=hidden_size // 64, num_query_groups=hidden_size // 256, kv_channels=64, vocab_size=vocab_size,
        max_position_embeddings=8192, share_embeddings_and_output_weights=hidden_size < 1024,
    )  # fmt: skip


KEEP_ALL, LAYERS_AGAIN = Recompute(), Recompute(granularity=RecomputeGranularity.FULL)
SMALL = llama(num_layers=6, hidden_size=512, vocab_size=16_384)
MIDDLE = llama(num_layers=12, hidden_size=768, vocab_size=32_768)
LARGE = llama(num_layers=18, hidden_size=1024, vocab_size=32_768)
CPU_CASES = {
    "small fp32": Case(model=SMALL, seq_length=2048, precision=Precision.FP32, recompute=KEEP_ALL),
    "small bf16": Case(model=SMALL, seq_length=2048, precision=Precision.BF16, recompute=KEEP_ALL),
    "middle fp32": Case(model=MIDDLE, seq_length=1024, precision=Precision.FP32, recompute=KEEP_ALL),
    "middle bf16": Case(model=MIDDLE, seq_length=1024, precision=Precision.BF16, recompute=KEEP_ALL),
    "middle fp32, layers again": Case(
        model=MIDDLE, seq_length=1024, precision=Precision.FP32,
        recompute=LAYERS_AGAIN,
    ),
    "large fp32": Case(model=LARGE, seq_length=512, precision=Precision.FP32, recompute=KEEP_ALL),
}  # fmt: skip
#: Large enough that what a GPU's libraries keep for themselves, some 100 MB, is no share of it.
GPU_CASES = {
    "1B bf16": Case(model=llama32_1b.MODEL, seq_length=4096, precision=Precision.BF16, recompute=KEEP_ALL),
    "1B bf16, layers again": Case(
        model=llama32_1b.MODEL, seq_length=8192, precision=Precision.BF16, recompute=LAYERS_AGAIN
    ),
    "1B fp8": Case(model=llama32_1b.MODEL, seq_length=4096, precision=Precision.FP8, recompute=KEEP_ALL),
}
CASES = CPU_CASES | GPU_CASES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, help="this one, in this process")
    case = parser.parse_args().case
    if case is not None:
        print(json.dumps(measured(CASES[case])))
        return
    print("| case | parameters | seq | estimated MB | measured MB | ratio | most at | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    cases = GPU_CASES if torch.cuda.is_available() else CPU_CASES
    if not spec.uses_transformer_engine():
        cases = {name: case for name, case in cases.items() if case.precision is not Precision.FP8}
    ratios = [row(name, case) for name, case in cases.items()]
    far = max(abs(ratio - 1) for ratio in ratios)
    print(f"\nfarthest from 1: {far:.1%} (asked: {WITHIN:.0%})")
    raise SystemExit(far > WITHIN)


def row(name: str, case: Case) -> float:
    started = time.perf_counter()
    result = subprocess.run(
        [sys.executable, __file__, "--case", name], env=os.environ | ALLOCATOR | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found = json.loads(result.stdout.splitlines()[-1])
    ratio = float(found["estimated"] / found["measured"])
    print(
        f"| {name} | {estimate.parameters(case.model) / 1e6:.0f}M | {case.seq_length} | {found['estimated'] / 1e6:.0f} | "
        f"{found['measured'] / 1e6:.0f} | {ratio:.3f} | {found['moment']} | {time.perf_counter() - started:.0f} |",
        flush=True,
    )
    return ratio


def measured(case: Case) -> dict[str, float | str]:
    """Take the steps in this process; bytes estimated and measured."""
    recipe = MidTraining(
        name="memory", model=case.model, init_from=None, tokenizer="none", blend=blend(random=1.0),
        train_tokens=STEPS * case.seq_length, seq_length=case.seq_length, global_batch_size=1, micro_batch_size=1,
        schedule=Schedule(style=LearningRateStyle.CONSTANT, peak_lr=1e-4, min_lr=1e-4), precision=case.precision,
        recompute=case.recompute, save_interval_tokens=STEPS * case.seq_length,
    )  # fmt: skip
    ranks = megatron.initialize(recipe.parallelism, recipe.seed)
    with tempfile.TemporaryDirectory() as scratch:
        order = random_tokens(recipe, Path(scratch))
        before = start_counting()
        take_steps(recipe, ranks, order, Path(scratch))
        peak = peak_bytes() - before
    expected: Memory = memory(recipe, ranks.world_size, modules=spec.modules())
    return {"estimated": expected.total, "measured": peak, "moment": expected.activations.moment}


def take_steps(recipe: MidTraining, ranks: megatron.Ranks, order: SampleOrder, scratch: Path) -> None:
    model, optimizer = megatron.build(recipe)
    run = loop.Run(
        recipe=recipe, model=model, optimizer=optimizer, order=order, validation=None, ranks=ranks, progress=Progress(),
        saver=Saver(
            scratch, model=model, optimizer=optimizer, keep=1, keep_every=None, asynchronous=False,
            on_saved=lambda saved: None, on_failure=lambda why: None,
        ),
        watchdog=Watchdog(
            timeout_seconds=600, rank=ranks.rank, world_size=ranks.world_size, store=megatron.store(), directory=scratch,
            say=print,
        ),
        stop=StopSignal(), meter=Meter(recipe, ranks.world_size), on_step=lambda row: None,
        on_skip=lambda why, losses: None,
    )  # fmt: skip
    for step in range(STEPS):
        loop.train_step(run, loop.read_step(recipe, order, ranks, step))


def random_tokens(recipe: MidTraining, scratch: Path) -> SampleOrder:
    tokens = np.random.default_rng(0).integers(recipe.model.vocab_size, size=STEPS * recipe.seq_length + 1)
    with ShardWriter(scratch / "random", vocab_size=recipe.model.vocab_size) as writer:
        writer.add(tokens, np.array([tokens.size]))
    stream = TokenStream(name="random", shards=(ShardReader.open(scratch / "random"),), seq_length=recipe.seq_length)
    return SampleOrder(blend=recipe.blend, streams=[stream], seed=recipe.seed, phase=recipe.name)


def start_counting() -> int:
    """Bytes held now; from here on the highest counts."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
