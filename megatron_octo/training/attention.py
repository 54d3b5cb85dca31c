"""Core attention through `torch.nn.functional.scaled_dot_product_attention`, put into Megatron's local layer spec.

Megatron's own local core attention writes the [batch, heads, S, S] scores to memory; the fused kernel does not, on CPU and on
GPU alike. It has no weights, so checkpoints do not notice.
"""

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig

# Shapes: S sequence, B batch, N query heads, G key/value heads, D head size; N and G are this rank's.


class FusedAttention(MegatronModule):  # type: ignore[misc]  # the wheel has no types
    """Causal attention without dropout. Takes the arguments of Megatron's `DotProductAttention`."""

    def __init__(
        self, config: TransformerConfig, *args: Any, softmax_scale: float | None = None, **kwargs: Any
    ) -> None:
        super().__init__(config=config)
        assert config.attention_dropout == 0, "mid-training uses no dropout"
        assert parallel_state.get_context_parallel_world_size() == 1, "this attention sees whole sequences"
        self.softmax_scale = softmax_scale

    def forward(
        self, query_SBND: torch.Tensor, key_SBGD: torch.Tensor, value_SBGD: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Returns the context [S, B, N * D]. The mask argument is ignored: attention is causal over the window."""
        query, key, value = (tensor.permute(1, 2, 0, 3) for tensor in (query_SBND, key_SBGD, value_SBGD))
        context_BNSD = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=self.softmax_scale, enable_gqa=key.shape[1] != query.shape[1]
        )
        return context_BNSD.permute(2, 0, 1, 3).flatten(2)
