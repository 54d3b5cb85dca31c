"""RMS norm that may run sequence parallel, put into Megatron's local layer spec.

The norm Megatron's local spec falls back to without Apex is torch's own, and it refuses sequence parallelism, because nobody would
sum the gradients of its weight over the tensor-parallel ranks. Here the weight is marked, and Megatron's `finalize_model_grads` sums.
"""

from typing import Any

import torch
from megatron.core.transformer.transformer_config import TransformerConfig


class RMSNorm(torch.nn.RMSNorm):
    """Statistics and product with the weight in fp32 whatever the input's precision; rounded once, at the end.

    Used for the norms of the residual stream and, with `qk_layernorm`, of queries and keys. The former see a part of the sequence
    on each tensor-parallel rank under sequence parallelism, and the whole of it on all ranks otherwise. The latter see a part of
    the heads either way, so their gradients are sums over the ranks either way; Megatron knows them by their names
    (`q_layernorm`, `k_layernorm`) and sums a weight once even where it is marked too.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float, **_: Any) -> None:
        assert not config.layernorm_zero_centered_gamma, "weights are stored as they are"
        super().__init__(hidden_size, eps=eps)
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]  # read by finalize_model_grads
