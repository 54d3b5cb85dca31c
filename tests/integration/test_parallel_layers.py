"""Attention over context-parallel ranks is the attention of one, and our norms get the gradients of one process at every layout."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_training as tiny
import torch
import torch.distributed
from forks import on_ranks
from megatron.core.distributed import finalize_model_grads
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_octo.training import megatron
from megatron_octo.training.attention import FusedAttention, chunks_of_rank
from megatron_octo.training.parallelism import Parallelism
from megatron_octo.training.precision import Precision

SEQ_LENGTH, BATCH, HEADS, HEAD_SIZE = 32, 2, 4, 8
#: Documents that end inside chunks, at their ends, and reach over several; one is a single token.
STARTS = torch.tensor([[0] * 5 + [5] + [6] * 14 + [20] * 12, [0] * 16 + [16] * 16])


def places(rank: int, size: int, length: int = SEQ_LENGTH) -> list[int]:
    return [place for chunk in chunks_of_rank(length // size, rank=rank, size=size) for place in chunk]


def context_and_gradients(num_query_groups: int, starts: torch.Tensor | None) -> list[torch.Tensor]:
    """Of this rank's part of the window."""
    torch.distributed.init_process_group("gloo")
    group = torch.distributed.group.WORLD
    config = TransformerConfig(
        num_layers=1, hidden_size=HEADS * HEAD_SIZE, num_attention_heads=HEADS, num_query_groups=num_query_groups,
        attention_dropout=0.0, context_parallel_size=group.size(),
    )  # fmt: skip
    attention = FusedAttention(config=config, pg_collection=ProcessGroupCollection(cp=group))
    random, mine = torch.Generator().manual_seed(0), places(group.rank(), group.size())
    leaves = [
        torch.randn(SEQ_LENGTH, BATCH, heads, HEAD_SIZE, generator=random)[mine].requires_grad_()
        for heads in (HEADS, num_query_groups, num_query_groups)
    ]
    context = attention(*leaves, None if starts is None else starts[:, mine])
    context.backward(torch.randn(SEQ_LENGTH, *context.shape[1:], generator=random)[mine])
    return [context.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.slow
@pytest.mark.parametrize("starts", [None, STARTS], ids=["window", "documents"])
@pytest.mark.parametrize(("size", "num_query_groups"), [(2, HEADS), (2, 2), (4, 2)])
def test_context_parallel_ranks_compute_what_one_does(
    tmp_path: Path, size: int, num_query_groups: int, starts: torch.Tensor | None
) -> None:
    (whole,) = on_ranks(context_and_gradients, 1, tmp_path / "one", num_query_groups, starts)
    parts = on_ranks(context_and_gradients, size, tmp_path / "many", num_query_groups, starts)
    for rank, part in enumerate(parts):
        for found, expected in zip(part, whole, strict=True):
            # fp32, and sums in another order.
            torch.testing.assert_close(found, expected[places(rank, size)], rtol=1e-5, atol=2e-6)


def norm_gradients(layout: Parallelism, recompute: dict[str, object]) -> dict[str, torch.Tensor]:
    """Gradients of the norms, and the sum of all losses, for two windows with documents through a model with norms of q and k."""
    # The distributed optimizer would leave each rank a part of the reduced gradients only.
    layout = replace(layout, use_distributed_optimizer=False)
    ranks = megatron.initialize(layout, seed=1)
    model = replace(tiny.MODEL, qk_layernorm=True)
    recipe = tiny.phase("norms", steps=1, model=model, seq_length=SEQ_LENGTH, parallelism=layout)
    config = megatron.transformer_config(model, layout, Precision.FP32, init_method_std=0.2, **recompute)
    chunks = megatron.wrap(megatron.build_gpt(model, config, documents=True), recipe)
    tokens = torch.randint(tiny.VOCAB_SIZE, (BATCH, SEQ_LENGTH + 1), generator=torch.Generator().manual_seed(0))
    part = megatron.context_slices(
        tokens=tokens[:, :-1], labels=tokens[:, 1:], positions=torch.arange(SEQ_LENGTH).repeat(BATCH, 1), starts=STARTS
    )
    chunks[0].zero_grad_buffer()
    losses = chunks[0](part["tokens"], part["positions"], part["starts"], labels=part["labels"])
    # The reduction divides by the context-parallel parts.
    (losses.sum() * ranks.context_parallel_size).backward()
    finalize_model_grads(chunks)
    found = {name: weight.main_grad.clone() for name, weight in chunks[0].named_parameters() if "norm" in name}
    torch.distributed.all_reduce(losses := losses.detach().sum())
    return found | {"loss": losses / layout.tensor_model_parallel_size}


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return on_ranks(norm_gradients, 1, tmp_path_factory.mktemp("one"), Parallelism(), {})[0]


SELECTIVE = {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]}
FULL = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "layout", "recompute"),
    [
        (1, Parallelism(), SELECTIVE),
        (1, Parallelism(), FULL),
        (2, Parallelism(tensor_model_parallel_size=2), {}),
        (2, Parallelism(tensor_model_parallel_size=2, sequence_parallel=True), {}),
        (2, Parallelism(tensor_model_parallel_size=2, sequence_parallel=True), FULL),
        (2, Parallelism(context_parallel_size=2), {}),
        (2, Parallelism(context_parallel_size=2), SELECTIVE),
        (2, Parallelism(context_parallel_size=2), FULL),
    ],
    ids=["selective", "full", "tp2", "tp2-sp", "tp2-sp-full", "cp2", "cp2-selective", "cp2-full"],
)
def test_gradients_of_norms_and_the_loss_are_those_of_one_process(
    tmp_path: Path, one_rank: dict[str, torch.Tensor], size: int, layout: Parallelism, recompute: dict[str, object]
) -> None:
    # Two norms and two norms of q and k in each of two layers, and the last.
    assert len(one_rank) == 2 * 4 + 1 + 1
    for found in on_ranks(norm_gradients, size, tmp_path, layout, recompute):
        assert found.keys() == one_rank.keys()
        for name, expected in one_rank.items():
            torch.testing.assert_close(
                found[name], expected, rtol=1e-5, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
            )


def kept_by_decay() -> dict[str, torch.Tensor]:
    """What a step without gradients at rate 0.1 and weight decay 0.5 leaves of each weight."""
    megatron.initialize(Parallelism(), seed=1)
    (model,), optimizer = megatron.build(tiny.phase("decay", steps=1))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    model.zero_grad_buffer()
    megatron.set_learning_rate(optimizer, 0.1, 0.5)
    optimizer.step()
    return {name: (weight / before[name]).detach() for name, weight in model.named_parameters()}


@pytest.mark.slow
def test_norms_are_not_decayed(tmp_path: Path) -> None:
    (kept,) = on_ranks(kept_by_decay, 1, tmp_path)
    for name, part in kept.items():
        torch.testing.assert_close(part, torch.full_like(part, 1.0 if "norm" in name else 0.95), msg=name)


def checkpoint_keys() -> tuple[list[str], list[str]]:
    """Of a model of our modules, and of Megatron's own."""
    megatron.initialize(Parallelism(), seed=1)
    model = replace(tiny.MODEL, qk_layernorm=True, add_qkv_bias=True)
    config = megatron.transformer_config(model, Parallelism(), Precision.FP32)
    (ours,) = megatron.build_gpt(model, config)
    theirs = GPTModel(
        config,
        get_gpt_layer_local_spec(normalization="RMSNorm", qk_layernorm=True),
        vocab_size=model.vocab_size,
        max_sequence_length=model.max_position_embeddings,
        share_embeddings_and_output_weights=model.share_embeddings_and_output_weights,
        position_embedding_type="rope",
    )
    return tuple(sorted(part.key for part in gpt.sharded_state_dict().values()) for gpt in (ours, theirs))


@pytest.mark.slow
def test_checkpoints_do_not_notice_our_modules(tmp_path: Path) -> None:
    ((ours, theirs),) = on_ranks(checkpoint_keys, 1, tmp_path)
    assert ours == theirs
    assert "decoder.layers.self_attention.q_layernorm.weight" in ours
