import pytest
import torch
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_octo.training.attention import FusedAttention, Piece, chunks_of_rank, pieces
from megatron_octo.training.norm import RMSNorm

SEQ_LENGTH, BATCH, HEADS, HEAD_SIZE = 24, 2, 4, 8
#: The first sample has documents of 5, 1, 14 and 4 tokens, the second one of 12 and 12.
STARTS = torch.tensor([[0] * 5 + [5] + [6] * 14 + [20] * 4, [0] * 12 + [12] * 12])


def config(num_query_groups: int) -> TransformerConfig:
    return TransformerConfig(
        num_layers=1, hidden_size=HEADS * HEAD_SIZE, num_attention_heads=HEADS, num_query_groups=num_query_groups,
        attention_dropout=0.0,
    )  # fmt: skip


def attention(num_query_groups: int) -> FusedAttention:
    return FusedAttention(config=config(num_query_groups))


def random_qkv(num_query_groups: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    heads = (HEADS, num_query_groups, num_query_groups)
    return [torch.randn(SEQ_LENGTH, BATCH, n, HEAD_SIZE, generator=random, dtype=torch.float64) for n in heads]


def softmax_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, starts: torch.Tensor | None
) -> torch.Tensor:
    """softmax(Q K^T / sqrt(D)) V, spelled out."""
    key, value = (tensor.repeat_interleave(HEADS // tensor.shape[2], dim=2) for tensor in (key, value))
    scores_BNST = torch.einsum("sbnd,tbnd->bnst", query, key) / HEAD_SIZE**0.5
    position = torch.arange(SEQ_LENGTH)
    hidden = position[None, None, :] > position[None, :, None]
    if starts is not None:
        hidden = hidden | (position[None, None, :] < starts[:, :, None])
    weights = scores_BNST.masked_fill(hidden[:, None], float("-inf")).softmax(-1)
    return torch.einsum("bnst,tbnd->sbnd", weights, value).flatten(2)


def with_gradients(attend, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    context = attend(*leaves)
    context.backward(torch.linspace(-1, 1, context.numel(), dtype=context.dtype).view_as(context))
    return [context.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("starts", [None, STARTS], ids=["window", "documents"])
@pytest.mark.parametrize("num_query_groups", [HEADS, 2, 1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 5e-6)])
def test_context_and_gradients_are_those_of_plain_softmax(
    num_query_groups: int, starts: torch.Tensor | None, dtype: torch.dtype, tolerance: float
) -> None:
    inputs = random_qkv(num_query_groups)
    expected = with_gradients(lambda *qkv: softmax_attention(*qkv, starts), inputs)
    fused = attention(num_query_groups)
    found = with_gradients(lambda *qkv: fused(*qkv, starts), [tensor.to(dtype) for tensor in inputs])
    for ours, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), reference, rtol=tolerance, atol=tolerance)


def test_a_document_does_not_see_the_one_before() -> None:
    query, key, value = random_qkv(2)
    fused = attention(2)
    before = fused(query, key, value, STARTS)
    value[:12, 1] += 1.0  # the first document of the second sample
    after = fused(query, key, value, STARTS)
    assert torch.equal(before[:, 0], after[:, 0])
    assert torch.equal(before[12:, 1], after[12:, 1])
    assert not torch.isclose(before[:12, 1], after[:12, 1]).any()


def test_chunks_of_a_rank() -> None:
    assert chunks_of_rank(8, rank=0, size=1) == [range(8)]
    assert [chunks_of_rank(4, rank=rank, size=2) for rank in range(2)] == [
        [range(2), range(6, 8)],
        [range(2, 4), range(4, 6)],
    ]


def test_pieces_end_where_a_chunk_or_a_document_ends() -> None:
    # Documents [0, 3) and [3, 8); the rank has the chunks [2, 4) and [4, 6).
    assert list(pieces(torch.tensor([0, 3, 3, 3]), [range(2, 4), range(4, 6)])) == [
        Piece(num_queries=1, first_key=0, end_key=3),
        Piece(num_queries=1, first_key=3, end_key=4),
        Piece(num_queries=2, first_key=3, end_key=6),
    ]


def test_the_norm_computes_in_fp32_and_rounds_once() -> None:
    norm = RMSNorm(config=config(2), hidden_size=32, eps=1e-5).bfloat16()
    torch.nn.init.normal_(norm.weight, mean=1.0, generator=torch.Generator().manual_seed(1))
    hidden = torch.randn(64, 32, generator=torch.Generator().manual_seed(0)).bfloat16() * 100
    exact = hidden.double() * (hidden.double().square().mean(-1, keepdim=True) + 1e-5).rsqrt() * norm.weight.double()
    # Half a unit in the last of bf16's eight binary digits, and what fp32 adds to it.
    assert ((norm(hidden).double() - exact).abs() <= exact.abs() * 2**-8 * 1.001).all()


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_the_norm_is_marked_for_the_sum_over_tensor_parallel_ranks(sequence_parallel: bool) -> None:
    settings = config(2)
    settings.sequence_parallel = sequence_parallel
    assert RMSNorm(config=settings, hidden_size=8, eps=1e-5).weight.sequence_parallel is sequence_parallel
