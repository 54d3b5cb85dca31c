r"""What our training loop costs beside a bare Megatron-Core loop: same process, same model, same batches, in turns.

    python benchmarks/training.py [--steps 20] [--rounds 5]        (prints a Markdown table; about four minutes on one core)

The bare loop is what Megatron-Core needs and nothing else: gradients cleared, forward and backward, optimizer. Ours is `train` as a
run has it: windows read from shards, losses per corpus, skip guard, metrics to JSONL and TensorBoard, watchdog; without saves, on
one rank. A step is measured from the end of one to the end of the next. On a machine with a GPU it runs there, in bf16. Exit code 1
where CPU time is more than `BAR` above the bare loop's.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from megatron.core.pipeline_parallel import get_forward_backward_func

from megatron_octo.shards import ShardReader, ShardWriter
from megatron_octo.training import loop, megatron
from megatron_octo.training.blend import blend
from megatron_octo.training.checkpoint import Progress
from megatron_octo.training.config import MidTraining, ModelConfig
from megatron_octo.training.data import SampleOrder, TokenStream
from megatron_octo.training.meter import Meter
from megatron_octo.training.precision import Precision
from megatron_octo.training.saving import Saver
from megatron_octo.training.schedule import LearningRateStyle, Schedule
from megatron_octo.training.state import StopSignal
from megatron_octo.training.tracking import Tracker
from megatron_octo.training.watchdog import Watchdog

VOCAB_SIZE = 8192
WARMUP_STEPS = 2
#: Most that ours may cost beside the bare loop.
BAR = 1.02


class Seconds(NamedTuple):
    """By the wall clock, and of this process' threads alone, which other work on the machine does not move."""

    wall: float
    cpu: float


def recipe(steps: int) -> MidTraining:
    """A 21M-parameter Llama; on a GPU the shape of Llama-3.2-1B at a quarter of its depth."""
    on_gpu = torch.cuda.is_available()
    hidden, seq_length, batch = (2048, 4096, 8) if on_gpu else (384, 256, 4)
    model = ModelConfig(
        num_layers=4 if on_gpu else 8, hidden_size=hidden, ffn_hidden_size=4 * hidden, num_attention_heads=hidden // 64,
        num_query_groups=2, kv_channels=64, vocab_size=VOCAB_SIZE, max_position_embeddings=seq_length,
        share_embeddings_and_output_weights=True,
    )  # fmt: skip
    return MidTraining(
        name="benchmark", model=model, init_from=None, tokenizer="none", blend=blend(web=0.7, code=0.2, qa=0.1),
        train_tokens=steps * batch * seq_length, seq_length=seq_length, global_batch_size=batch, micro_batch_size=2,
        schedule=Schedule(style=LearningRateStyle.CONSTANT, peak_lr=1e-4, min_lr=1e-4),
        precision=Precision.BF16 if on_gpu else Precision.FP32, save_interval_tokens=10**12,
    )  # fmt: skip


class NoSaver(Saver):
    """Saves nothing, not even at the end of a block."""

    def start(self, progress: Progress) -> None:
        pass


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    settings = recipe(options.steps + WARMUP_STEPS)
    megatron.initialize(settings.parallelism, settings.seed)
    model, optimizer = megatron.build(settings)
    with tempfile.TemporaryDirectory() as work:
        order = _order(settings, Path(work))
        blocks: dict[str, list[Seconds]] = {"bare Megatron-Core": [], "megatron-octo": []}
        for number in range(options.rounds):
            out = Path(work) / f"run{number}"
            blocks["bare Megatron-Core"] += bare(settings, model, optimizer, order)
            blocks["megatron-octo"] += ours(settings, model, optimizer, order, out)
    raise SystemExit(_report(settings, blocks) > BAR)


def ours(settings: MidTraining, model: megatron.Model, optimizer: Any, order: SampleOrder, out: Path) -> list[Seconds]:
    """Seconds from step to step in the real loop."""
    out.mkdir()
    ends: list[Seconds] = []
    ranks = megatron.Ranks(
        rank=0, world_size=1, data_parallel_rank=0, data_parallel_size=1, context_parallel_size=1, reports_loss=True
    )
    saver = NoSaver(
        out, model=model, optimizer=optimizer, keep=1, keep_every=None, asynchronous=True,
        on_saved=lambda saved: None, on_failure=lambda message: None,
    )  # fmt: skip
    watchdog = Watchdog(timeout_seconds=600, rank=0, world_size=1, store=megatron.store(), directory=out, say=print)
    tracker = Tracker(
        out, name="benchmark", resume_step=0, total_tokens=settings.trained_tokens, done_tokens=0, wandb_project=None, config={}
    )  # fmt: skip
    with StopSignal() as stop, watchdog, tracker:

        def on_step(row: loop.Row) -> None:
            tracker.log(row)
            ends.append(Seconds(time.perf_counter(), time.process_time()))

        run = loop.Run(
            recipe=settings, model=model, optimizer=optimizer, order=order, validation=None, ranks=ranks,
            progress=Progress(), saver=saver, watchdog=watchdog, stop=stop, meter=Meter(settings, 1), on_step=on_step,
            on_skip=lambda why, losses: print(why),
        )  # fmt: skip
        loop.train(run)
    return _intervals(ends)


def bare(settings: MidTraining, model: megatron.Model, optimizer: Any, order: SampleOrder) -> list[Seconds]:
    """Seconds from step to step of Megatron-Core alone; the batches are in memory before."""
    batches = [
        order.read(np.arange(step * settings.global_batch_size, (step + 1) * settings.global_batch_size)).tokens_NS1
        for step in range(settings.train_iters)
    ]
    forward_backward = get_forward_backward_func()
    ends: list[Seconds] = []
    for tokens in batches:
        for chunk in model:
            chunk.zero_grad_buffer()
        optimizer.zero_grad()
        forward_backward(
            forward_step_func=_bare_forward,
            data_iterator=iter(torch.from_numpy(tokens).to(megatron.device()).split(settings.micro_batch_size)),
            model=model, num_microbatches=settings.num_microbatches(1), seq_length=settings.seq_length,
            micro_batch_size=settings.micro_batch_size, forward_only=False,
        )  # fmt: skip
        optimizer.step()
        ends.append(Seconds(time.perf_counter(), time.process_time()))
    return _intervals(ends)


def _bare_forward(batches: Iterator[torch.Tensor], model: torch.nn.Module) -> Any:
    tokens = next(batches)
    positions = torch.arange(tokens.shape[1] - 1, device=tokens.device).expand(len(tokens), -1)
    loss = model(tokens[:, :-1].contiguous(), positions, None, labels=tokens[:, 1:].contiguous())
    return loss, partial(lambda output: (output.float().mean(), {}))


def _order(settings: MidTraining, work: Path) -> SampleOrder:
    """Random tokens: one shard of documents for each corpus of the blend."""
    random = np.random.default_rng(1)
    streams = []
    for share in settings.blend.shares:
        lengths = random.integers(100, 2000, 500)
        with ShardWriter(work / share.corpus, vocab_size=VOCAB_SIZE) as writer:
            writer.add(random.integers(0, VOCAB_SIZE, lengths.sum()), lengths)
        reader = ShardReader.open(work / share.corpus)
        streams.append(TokenStream(name=share.corpus, shards=(reader,), seq_length=settings.seq_length))
    return SampleOrder(blend=settings.blend, streams=streams, seed=1, phase="benchmark")


def _intervals(ends: list[Seconds]) -> list[Seconds]:
    steps = [Seconds(after.wall - before.wall, after.cpu - before.cpu) for before, after in itertools.pairwise(ends)]
    return steps[WARMUP_STEPS - 1 :]


def _report(settings: MidTraining, blocks: dict[str, list[Seconds]]) -> float:
    """Print the table; returns the ratio of CPU time."""
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "one CPU core"
    print(f"\n{settings.precision.value}, {settings.tokens_per_step:,} tokens a step, on {where}; medians\n")
    print("| loop | steps | wall s | ratio | CPU s | ratio |\n|---|---|---|---|---|---|")
    first, *_ = (_median(steps) for steps in blocks.values())
    for name, steps in blocks.items():
        found = _median(steps)
        print(
            f"| {name} | {len(steps)} | {found.wall:.4f} | {found.wall / first.wall:.4f} | {found.cpu:.4f} "
            f"| {found.cpu / first.cpu:.4f} |"
        )
    return found.cpu / first.cpu


def _median(steps: list[Seconds]) -> Seconds:
    return Seconds(statistics.median(step.wall for step in steps), statistics.median(step.cpu for step in steps))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Our training loop beside a bare Megatron-Core loop.")
    parser.add_argument("--steps", type=int, default=20, help="measured steps of a block")
    parser.add_argument("--rounds", type=int, default=5, help="blocks of each loop, in turns")
    return parser.parse_args()


if __name__ == "__main__":
    main()
