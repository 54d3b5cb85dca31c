"""The training loop: one page. What a step costs beside Megatron's forward-backward and optimizer is one small all-reduce.

The next step's windows are read while this one computes, a checkpoint is written while the next steps do.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.pipeline_parallel import get_forward_backward_func

from megatron_octo.errors import TrainingError
from megatron_octo.training import anomalies, megatron
from megatron_octo.training.checkpoint import Progress
from megatron_octo.training.config import MidTraining
from megatron_octo.training.data import SampleOrder, StepReader, Windows
from megatron_octo.training.meter import Meter
from megatron_octo.training.order import Ints
from megatron_octo.training.saving import Saver
from megatron_octo.training.schedule import learning_rate
from megatron_octo.training.state import StopSignal
from megatron_octo.training.tracking import Row
from megatron_octo.training.watchdog import Watchdog

# Shapes: G sequences of a global batch, B of a micro-batch, S tokens.


@dataclass(kw_only=True)
class Run:
    """What the loop works with on one rank. `progress`, the weights and the optimizer state are all that changes."""

    recipe: MidTraining
    model: megatron.Model
    optimizer: MegatronOptimizer
    order: SampleOrder
    #: Of the recipe's validation blend.
    validation: SampleOrder | None
    ranks: megatron.Ranks
    progress: Progress
    saver: Saver
    watchdog: Watchdog
    stop: StopSignal
    meter: Meter
    #: Gets one row of metrics per step.
    on_step: Callable[[Row], None]
    #: Gets the reason and the loss of each sequence when a step is left out.
    on_skip: Callable[[str, Sequence[float]], None]


def train(run: Run) -> None:
    """Train from `run.progress` to the recipe's last step, or to the step in which a signal arrives; saves at the end.

    Raises:
        TrainingError: too many steps were left out. What was being saved is complete by then.
        SaveFailedError: the last checkpoint, or three in a row, could not be written.
    """
    recipe, progress = run.recipe, run.progress
    stopped = False
    read = partial(read_step, recipe, run.order, run.ranks)
    with closing(StepReader(read, first=progress.step, last=recipe.train_iters)) as reader, _saved(run.saver):
        while progress.step < recipe.train_iters and not stopped:
            started = time.perf_counter()
            run.watchdog.at(progress.step, "data")
            row, stopped = train_step(run, reader.take(progress.step))
            row |= {**run.meter.row(time.perf_counter() - started), "data_wait_seconds": reader.waited_seconds}
            if run.validation is not None and _due(recipe, progress.step, every=recipe.validation_interval):
                row |= validate(run, run.validation)
            run.on_step(row)
            run.watchdog.at(progress.step, "checkpoint")
            if stopped or _due(recipe, progress.step, every=recipe.save_interval):
                megatron.finish_param_gather(run.model)
                run.saver.start(progress)
            else:
                run.saver.poll()


def _due(recipe: MidTraining, step: int, *, every: int) -> bool:
    return step % every == 0 or step == recipe.train_iters


@contextmanager
def _saved(saver: Saver) -> Iterator[None]:
    """Complete the save under way, also when every rank leaves for the same reason."""
    try:
        yield
    except TrainingError:
        saver.finish()
        raise
    saver.finish()


def train_step(run: Run, windows: Windows) -> tuple[Row, bool]:
    """One optimizer step, or one left out; returns its metrics and whether some rank was told to stop."""
    recipe, progress = run.recipe, run.progress
    rate = learning_rate(recipe.schedule, tokens=progress.tokens, train_tokens=recipe.trained_tokens)
    megatron.set_learning_rate(run.optimizer, rate, recipe.optimizer.weight_decay)
    # An optimizer that is not distributed leaves the gradient buffer in `param.grad`, where the backward pass would add to it.
    run.optimizer.zero_grad()
    for chunk in run.model:
        chunk.zero_grad_buffer()
    run.watchdog.at(progress.step, "forward_backward")
    losses_G, stopped = forward_backward(run, windows)
    loss = math.fsum(losses_G) / len(losses_G)
    run.watchdog.at(progress.step, "optimizer")

    def why_not(norm: float) -> str | None:
        return anomalies.reason(recipe.anomalies, loss=loss, grad_norm=norm, recent=progress.recent_grad_norms)

    grad_norm, why_skipped = megatron.step(run.optimizer, why_not)
    if why_skipped is None:
        anomalies.remember(progress.recent_grad_norms, grad_norm, window=recipe.anomalies.window)
    else:
        progress.skipped_steps += 1
        run.on_skip(why_skipped, losses_G)
    progress.step += 1
    progress.tokens += recipe.tokens_per_step
    progress.total_tokens += recipe.tokens_per_step
    row: Row = {
        "step": progress.step,
        "tokens": progress.tokens,
        "total_tokens": progress.total_tokens,
        "loss": finite(loss),
        **corpus_losses(run.order, losses_G, first=(progress.step - 1) * recipe.global_batch_size),
        "learning_rate": rate,
        "grad_norm": finite(grad_norm),
        "skipped_steps": progress.skipped_steps,
    }
    return row, stopped


def forward_backward(run: Run, windows: Windows, *, forward_only: bool = False) -> tuple[list[float], bool]:
    """Gradients of one global batch; returns the mean loss of each of its sequences, and whether some rank must stop."""
    recipe, ranks = run.recipe, run.ranks
    size = recipe.global_batch_size
    # Losses of the whole batch and the wish to stop travel in one sum over the world.
    sums = torch.zeros(size + 1, dtype=torch.float64, device=megatron.device())
    batches = list(microbatches(recipe, ranks, windows))
    get_forward_backward_func()(
        forward_step_func=partial(_forward_step, sums if ranks.reports_loss else None, ranks.context_parallel_size),
        data_iterator=[iter(batches) for _ in run.model] if len(run.model) > 1 else iter(batches),
        model=run.model,
        num_microbatches=len(batches),
        seq_length=recipe.seq_length,
        micro_batch_size=recipe.micro_batch_size,
        forward_only=forward_only,
    )
    sums[size] = run.stop.received is not None
    *losses, stops = megatron.sum_over_ranks(sums).tolist()
    return [loss / recipe.seq_length for loss in losses], stops > 0


@dataclass(frozen=True)
class Microbatch:
    tokens_BS1: torch.Tensor
    #: Position in the window of the first token of each token's document; None attends to the whole window.
    starts_BS: torch.Tensor | None
    #: Place of each sequence in the global batch.
    places_B: torch.Tensor


def local_places(recipe: MidTraining, ranks: megatron.Ranks) -> Ints:
    """Places [num_microbatches, B] in a global batch that this data-parallel rank computes.

    Megatron's order: the sum over ranks is the same batch at every layout.
    """
    per_pass = (recipe.num_microbatches(ranks.world_size), ranks.data_parallel_size, recipe.micro_batch_size)
    return np.arange(recipe.global_batch_size).reshape(per_pass)[:, ranks.data_parallel_rank]


def read_step(recipe: MidTraining, order: SampleOrder, ranks: megatron.Ranks, step: int) -> Windows:
    """This rank's windows of one step, in the order of `local_places`."""
    return order.read(step * recipe.global_batch_size + local_places(recipe, ranks).reshape(-1))


def microbatches(recipe: MidTraining, ranks: megatron.Ranks, windows: Windows) -> Iterator[Microbatch]:
    """The windows of a step, a micro-batch at a time, on the device."""
    device, size = megatron.device(), recipe.micro_batch_size
    for index, places_B in enumerate(local_places(recipe, ranks)):
        rows = slice(index * size, (index + 1) * size)
        starts = None if windows.starts_NS is None else windows.starts_NS[rows]
        yield Microbatch(
            tokens_BS1=torch.from_numpy(windows.tokens_NS1[rows]).to(device, non_blocking=True),
            starts_BS=None if starts is None else torch.from_numpy(starts),  # attention cuts by them on the CPU
            places_B=torch.from_numpy(places_B).to(device, non_blocking=True),
        )


def _forward_step(
    sums: torch.Tensor | None, context_parts: int, batches: Iterator[Microbatch], model: torch.nn.Module
) -> tuple[torch.Tensor, Callable[..., Any]]:
    batch = next(batches)
    inputs_BS, labels_BS = batch.tokens_BS1[:, :-1].contiguous(), batch.tokens_BS1[:, 1:].contiguous()
    positions_BS = torch.arange(inputs_BS.shape[1], device=inputs_BS.device).repeat(len(inputs_BS), 1)
    part = megatron.context_slices(inputs=inputs_BS, labels=labels_BS, positions=positions_BS, starts=batch.starts_BS)
    output = model(part["inputs"], part["positions"], part["starts"], labels=part["labels"])
    return output, partial(_mean_loss, sums, context_parts, batch.places_B)


def _mean_loss(
    sums: torch.Tensor | None, context_parts: int, places_B: torch.Tensor, loss_BS: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Mean over this rank's tokens of the micro-batch.

    Megatron divides by the micro-batches and multiplies by the context-parallel parts; its reduction divides by data-parallel
    ranks times context-parallel parts.
    """
    loss_BS = loss_BS.float()
    if sums is not None:
        sums.index_add_(0, places_B, loss_BS.detach().sum(dim=1).double())
    return loss_BS.mean() / context_parts, {}


def validate(run: Run, order: SampleOrder) -> Row:
    """Mean loss on the validation blend, in all and per corpus: the same windows every time."""
    assert run.recipe.validation is not None
    losses: list[float] = []
    for chunk in run.model:
        chunk.eval()
    # Megatron's schedules would build the graph of the backward pass all the same.
    with torch.no_grad():
        for index in range(run.recipe.validation_steps):
            run.watchdog.at(run.progress.step, "validation")
            windows = read_step(run.recipe, order, run.ranks, index)
            losses += forward_backward(run, windows, forward_only=True)[0]
    for chunk in run.model:
        chunk.train()
    row = {"loss": finite(math.fsum(losses) / len(losses))} | corpus_losses(order, losses, first=0)
    return {f"validation/{key}": value for key, value in row.items()}


def corpus_losses(order: SampleOrder, losses: Sequence[float], *, first: int) -> Row:
    """Mean loss of each corpus among samples `first`, `first + 1`, ...; corpora without a sample are left out."""
    corpora, _ = order.blend_order.locate(np.arange(first, first + len(losses)))
    counts = np.bincount(corpora, minlength=len(order.streams))
    sums = np.bincount(corpora, weights=losses, minlength=len(order.streams))
    return {
        f"loss/{stream.name}": finite(total / count)
        for stream, total, count in zip(order.streams, sums, counts, strict=True)
        if count
    }


def finite(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if math.isfinite(value) else None
