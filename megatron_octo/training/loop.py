"""The training loop: one page. What a step costs beside Megatron's forward-backward and optimizer is one small all-reduce."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.pipeline_parallel import get_forward_backward_func

from megatron_octo.training import megatron
from megatron_octo.training.checkpoint import Progress
from megatron_octo.training.config import MidTraining
from megatron_octo.training.data import SampleOrder
from megatron_octo.training.schedule import learning_rate

# Shapes: B sequences of a microbatch, S tokens, C corpora of the blend.


def train(
    recipe: MidTraining,
    *,
    model: DistributedDataParallel,
    optimizer: Any,
    order: SampleOrder,
    ranks: megatron.Ranks,
    progress: Progress,
    on_step: Callable[[dict[str, float]], None],
    on_checkpoint: Callable[[], None],
) -> None:
    """Train from `progress` to the recipe's last step.

    Args:
        on_step: gets one row of metrics per step, on every rank.
        on_checkpoint: called every `save_interval` steps and after the last one.
    """
    while progress.step < recipe.train_iters:
        started = time.perf_counter()
        rate = learning_rate(recipe.schedule, tokens=progress.tokens, train_tokens=recipe.trained_tokens)
        megatron.set_learning_rate(optimizer, rate, recipe.optimizer.weight_decay)
        # An optimizer that is not distributed leaves the gradient buffer in `param.grad`, where the backward pass would add to it.
        optimizer.zero_grad()
        losses = forward_backward(recipe, model=model, order=order, ranks=ranks, step=progress.step)
        succeeded, grad_norm, _ = optimizer.step()
        assert succeeded, "fp32 and bf16 training have no loss scale to skip a step for"
        progress.step += 1
        progress.tokens += recipe.tokens_per_step
        progress.total_tokens += recipe.tokens_per_step
        seconds = time.perf_counter() - started
        on_step(
            {
                "step": progress.step,
                "tokens": progress.tokens,
                "total_tokens": progress.total_tokens,
                **losses,
                "learning_rate": rate,
                "grad_norm": float(grad_norm),
                "seconds": seconds,
                "tokens_per_second": recipe.tokens_per_step / seconds,
            }
        )
        if progress.step % recipe.save_interval == 0 or progress.step == recipe.train_iters:
            on_checkpoint()


def forward_backward(
    recipe: MidTraining, *, model: DistributedDataParallel, order: SampleOrder, ranks: megatron.Ranks, step: int
) -> dict[str, float]:
    """Gradients of one global batch; returns the mean loss per token, in all and per corpus of the blend."""
    model.zero_grad_buffer()
    sums_C2 = torch.zeros(len(order.streams), 2, dtype=torch.float64, device=megatron.device())
    get_forward_backward_func()(
        forward_step_func=partial(_forward_step, sums_C2 if ranks.reports_loss else None),
        data_iterator=microbatches(recipe, order=order, ranks=ranks, step=step),
        model=[model],
        num_microbatches=recipe.num_microbatches(ranks.world_size),
        seq_length=recipe.seq_length,
        micro_batch_size=recipe.micro_batch_size,
        forward_only=False,
    )
    sums = megatron.sum_over_ranks(sums_C2).tolist()
    means = {
        f"loss/{stream.name}": loss / count for stream, (loss, count) in zip(order.streams, sums, strict=True) if count
    }
    return {"loss": sum(loss for loss, _ in sums) / sum(count for _, count in sums), **means}


def microbatches(
    recipe: MidTraining, *, order: SampleOrder, ranks: megatron.Ranks, step: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """This data-parallel rank's sequences of one step: tokens [B, S + 1] and corpus index [B] per microbatch.

    Sequence i of the step goes to microbatch and rank in the order Megatron uses, so the sum over ranks is the same batch at
    every layout.
    """
    size = recipe.micro_batch_size
    for index in range(recipe.num_microbatches(ranks.world_size)):
        first = step * recipe.global_batch_size + (index * ranks.data_parallel_size + ranks.data_parallel_rank) * size
        tokens, corpora = order.read(np.arange(first, first + size))
        yield torch.from_numpy(tokens).to(megatron.device()), torch.from_numpy(corpora).to(megatron.device())


def _forward_step(
    sums_C2: torch.Tensor | None, batches: Iterator[tuple[torch.Tensor, torch.Tensor]], model: torch.nn.Module
) -> tuple[torch.Tensor, Callable[..., Any]]:
    tokens, corpora_B = next(batches)
    inputs_BS, labels_BS = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    positions_BS = torch.arange(inputs_BS.shape[1], device=tokens.device).expand_as(inputs_BS)
    output = model(inputs_BS, positions_BS, None, labels=labels_BS)
    return output, partial(_mean_loss, sums_C2, corpora_B)


def _mean_loss(
    sums_C2: torch.Tensor | None, corpora_B: torch.Tensor, loss_BS: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Mean over the microbatch's tokens; Megatron divides by the microbatches, the data-parallel reduction by the ranks."""
    loss_BS = loss_BS.float()
    if sums_C2 is not None:
        per_sequence = loss_BS.detach().sum(dim=1).double()
        sums_C2[:, 0].index_add_(0, corpora_B, per_sequence)
        sums_C2[:, 1].index_add_(0, corpora_B, torch.full_like(per_sequence, loss_BS.shape[1]))
    return loss_BS.mean(), {}
