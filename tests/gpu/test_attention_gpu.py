"""Our attention on a GPU: right in bf16, without the square of scores in memory, and the same as Transformer Engine's."""

import math

import pytest
import runs
import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnMaskType
from runs import On

from megatron_octo.training import megatron
from megatron_octo.training.attention import FusedAttention
from megatron_octo.training.parallelism import Parallelism

HEADS, GROUPS, HEAD_SIZE = 8, 2, 64
SHORT, LONG = 512, 8192
#: bf16 has 8 bits: results are off by up to 2^-9 of themselves, and the softmax' weights and the sums over them are rounded as well.
FORWARD_TOLERANCE, GRADIENT_TOLERANCE = 0.01, 0.02

# Shapes: S sequence, B batch, N query heads, G key/value heads, D head size.


@pytest.fixture(scope="module")
def config() -> TransformerConfig:
    megatron.initialize(Parallelism(), seed=1)
    return TransformerConfig(
        num_layers=1, hidden_size=HEADS * HEAD_SIZE, num_attention_heads=HEADS, num_query_groups=GROUPS,
        kv_channels=HEAD_SIZE, attention_dropout=0.0, bf16=True, params_dtype=torch.bfloat16,
    )  # fmt: skip


def qkv(length: int) -> list[torch.Tensor]:
    """Query [S, B, N, D], key and value [S, B, G, D] of one sequence, as Megatron hands them over."""
    torch.manual_seed(0)
    shapes = [(length, 1, heads, HEAD_SIZE) for heads in (HEADS, GROUPS, GROUPS)]
    return [torch.randn(shape, device="cuda", dtype=torch.bfloat16).requires_grad_() for shape in shapes]


def explicit(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Causal attention in fp32, written out; [S, B, N * D]."""
    query, key, value = (tensor.float() for tensor in (query, key, value))
    key, value = (tensor.repeat_interleave(HEADS // GROUPS, dim=2) for tensor in (key, value))
    scores = torch.einsum("sbnd,tbnd->bnst", query, key) / math.sqrt(HEAD_SIZE)
    later = torch.ones(scores.shape[-2:], device=scores.device).triu(1).bool()
    weights = scores.masked_fill(later, -math.inf).softmax(dim=-1)
    return torch.einsum("bnst,tbnd->sbnd", weights, value).flatten(2)


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Of two tensors, as a share of the second one's norm."""
    found, expected = found.detach().float(), expected.detach().float()
    return float((found - expected).norm() / expected.norm())


def assert_same(
    length: int, found: torch.Tensor, tensors: list[torch.Tensor], other: torch.Tensor, others: list[torch.Tensor]
) -> None:
    """Equal results, and equal gradients of the same function of them."""
    torch.manual_seed(1)
    upstream = torch.randn(found.shape, device="cuda", dtype=torch.bfloat16)
    gradients = torch.autograd.grad(found, tensors, upstream)
    expected = torch.autograd.grad(other, others, upstream.to(other.dtype))
    assert distance(found, other) < FORWARD_TOLERANCE
    for name, one, two in zip(("query", "key", "value"), gradients, expected, strict=True):
        assert distance(one, two) < GRADIENT_TOLERANCE, name


def test_it_is_causal_attention(config: TransformerConfig) -> None:
    ours, theirs = qkv(SHORT), qkv(SHORT)
    assert_same(SHORT, FusedAttention(config)(*ours, None), ours, explicit(*theirs), theirs)


def test_documents_do_not_see_each_other(config: TransformerConfig) -> None:
    ours, theirs = qkv(SHORT), qkv(SHORT)
    ends = (100, 357, SHORT)
    starts_BS = torch.cat([torch.full((end - start,), start) for start, end in zip((0, *ends), ends, strict=False)])[
        None
    ]
    alone = [explicit(*(tensor[start:end] for tensor in theirs)) for start, end in zip((0, *ends), ends, strict=False)]
    assert_same(SHORT, FusedAttention(config)(*ours, starts_BS), ours, torch.cat(alone), theirs)


def test_a_long_sequence_takes_no_square_of_scores(config: TransformerConfig) -> None:
    """8,192 tokens of 8 heads: the scores alone would be 1 GiB in bf16; a fused kernel holds the tensors and a number per row."""
    tensors = qkv(LONG)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    FusedAttention(config)(*tensors, None).sum().backward()
    assert torch.cuda.max_memory_allocated() - before < HEADS * LONG * LONG * 2 / 8


@pytest.mark.parametrize("length", [SHORT, LONG])
def test_it_is_transformer_engines(config: TransformerConfig, length: int) -> None:
    runs.need(On.TRANSFORMER_ENGINE)
    from megatron.core.extensions.transformer_engine import TEDotProductAttention

    engine = TEDotProductAttention(
        config, layer_number=1, attn_mask_type=AttnMaskType.causal, attention_type="self",
        pg_collection=ProcessGroupCollection.use_mpu_process_groups(["tp", "cp"]),
    )  # fmt: skip
    ours, theirs = qkv(length), qkv(length)
    other = engine(*theirs, None, attn_mask_type=AttnMaskType.causal)
    assert_same(length, FusedAttention(config)(*ours, None), ours, other, theirs)
