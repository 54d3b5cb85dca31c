"""Core attention through `torch.nn.functional.scaled_dot_product_attention`, put into Megatron's layer spec.

Megatron's own local core attention writes the [batch, heads, S, S] scores to memory, knows no document boundaries and refuses
context parallelism. This one has no weights either, so checkpoints do not notice.

Cost: time and memory of the fused causal kernel. Documents are attended one by one rather than masked, so they make attention
cheaper: it falls from S^2 to the sum of their squared lengths. Under context parallelism every rank holds the keys and values of
the whole window of one layer at a time (for its backward pass: of every layer that is not recomputed), which grouped queries keep
small; each rank has the same work, because it has one chunk from the front of the window and one from the back.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn.attention.bias import causal_lower_right

# Shapes: S sequence (this rank's part), W the whole window, B batch, N query heads, G key/value heads, D head size; N and G are
# this rank's.


class FusedAttention(MegatronModule):  # type: ignore[misc]  # the wheel has no types
    """Causal attention without dropout, within documents if told where they start. Built and called like `DotProductAttention`."""

    def __init__(
        self,
        config: TransformerConfig,
        *args: Any,
        softmax_scale: float | None = None,
        pg_collection: ProcessGroupCollection | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(config=config)
        assert config.attention_dropout == 0, "mid-training uses no dropout"
        self.softmax_scale = softmax_scale
        self.context_parallel_group: torch.distributed.ProcessGroup | None = None
        if config.context_parallel_size > 1:
            assert pg_collection is not None, "context parallelism needs its process group"
            self.context_parallel_group = pg_collection.cp

    def forward(
        self,
        query_SBND: torch.Tensor,
        key_SBGD: torch.Tensor,
        value_SBGD: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Returns the context [S, B, N * D].

        Args:
            attention_mask: None, or in the place of a mask `starts_BS`, int64: for each query the position in the window of the
                first token of its document. Best left on the CPU: it is read there, and a GPU would have to wait for it.
        """
        group = self.context_parallel_group
        rank, size = (group.rank(), group.size()) if group is not None else (0, 1)
        chunks = chunks_of_rank(query_SBND.shape[0], rank=rank, size=size)
        if group is not None:
            key_SBGD, value_SBGD = _GatherWindow.apply(torch.stack((key_SBGD, value_SBGD)), group)  # type: ignore[no-untyped-call]
        query, key, value = (tensor.permute(1, 2, 0, 3) for tensor in (query_SBND, key_SBGD, value_SBGD))
        if attention_mask is None:
            context_BNSD = self._attend(query, key, value, [Piece.of_chunk(chunk) for chunk in chunks])
        else:
            per_sample = [
                self._attend(query[i : i + 1], key[i : i + 1], value[i : i + 1], list(pieces(starts, chunks)))
                for i, starts in enumerate(attention_mask)
            ]
            context_BNSD = torch.cat(per_sample)
        return context_BNSD.permute(2, 0, 1, 3).flatten(2)

    def _attend(
        self, query_BNSD: torch.Tensor, key_BGWD: torch.Tensor, value_BGWD: torch.Tensor, parts: "list[Piece]"
    ) -> torch.Tensor:
        queries = torch.split(query_BNSD, [piece.num_queries for piece in parts], dim=2)
        keys, values = (self._seen(tensor, parts) for tensor in (key_BGWD, value_BGWD))
        contexts = [self._causal(*qkv) for qkv in zip(queries, keys, values, strict=True)]
        return contexts[0] if len(contexts) == 1 else torch.cat(contexts, dim=2)

    def _seen(self, tensor_BGWD: torch.Tensor, parts: "list[Piece]") -> Sequence[torch.Tensor]:
        if self.context_parallel_group is None:
            # Each piece is a document and sees all of itself. The backward pass of a split is one concatenation; that of slices
            # would add as many tensors of the whole window.
            return torch.split(tensor_BGWD, [piece.num_queries for piece in parts], dim=2)
        return [tensor_BGWD[:, :, piece.first_key : piece.end_key] for piece in parts]

    def _causal(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """The last query sees every key, each one before it sees one key less."""
        num_queries, num_keys = query.shape[2], key.shape[2]
        square = num_queries == num_keys
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=None if square else causal_lower_right(num_queries, num_keys), is_causal=square,
            scale=self.softmax_scale, enable_gqa=key.shape[1] != query.shape[1],
        )  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """Successive queries of one chunk and one document, and the range of keys that the last of them sees."""

    num_queries: int
    first_key: int
    end_key: int

    @classmethod
    def of_chunk(cls, chunk: range) -> "Piece":
        """All queries of a chunk, in one document that starts with the window."""
        return cls(num_queries=len(chunk), first_key=0, end_key=chunk.stop)


def chunks_of_rank(length: int, *, rank: int, size: int) -> list[range]:
    """Positions in the window of the `length` tokens a context-parallel rank has (Megatron's `get_batch_on_this_cp_rank`).

    Rank r of C has the chunks r and 2C - 1 - r of 2C equal ones; a single rank has the window in one piece.
    """
    if size == 1:
        return [range(length)]
    half = length // 2
    return [range(chunk * half, (chunk + 1) * half) for chunk in (rank, 2 * size - 1 - rank)]


def pieces(starts_S: torch.Tensor, chunks: Sequence[range]) -> Iterator[Piece]:
    """Cut the queries of each chunk where a document ends.

    Args:
        starts_S: for each query, the position in the window of the first token of its document.
        chunks: positions of the queries.
    """
    for chunk, starts in zip(chunks, starts_S.chunk(len(chunks)), strict=True):
        first_keys, lengths = torch.unique_consecutive(starts, return_counts=True)
        end = chunk.start
        for first_key, num_queries in zip(first_keys.tolist(), lengths.tolist(), strict=True):
            end += num_queries
            yield Piece(num_queries=num_queries, first_key=first_key, end_key=end)


class _GatherWindow(torch.autograd.Function):
    """Keys and values [2, S, B, G, D] of all context-parallel ranks as one window [2, W, B, G, D] in its natural order.

    Backward sums over the ranks in fp32 and rounds once, so that the error of the gradient does not grow with the number of ranks.
    For bf16 that doubles the bytes sent, which are those of keys and values only.
    """

    @staticmethod
    def forward(ctx: Any, local: torch.Tensor, group: torch.distributed.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        ranks = local.new_empty(group.size(), *local.shape)
        torch.distributed.all_gather_into_tensor(ranks.flatten(0, 1), local, group=group)
        front, back = ranks.chunk(2, dim=2)
        return torch.cat((front, back.flip(0))).transpose(0, 1).flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, window: torch.Tensor) -> tuple[torch.Tensor, None]:
        chunks = torch.unflatten(window, 1, (2 * ctx.group.size(), -1)).transpose(0, 1)
        front, back = chunks.chunk(2)
        ranks = torch.cat((front, back.flip(0)), dim=2).float()
        local = torch.empty_like(ranks[0])
        torch.distributed.reduce_scatter_tensor(local, ranks.flatten(0, 1), group=ctx.group)
        return local.to(window.dtype), None
