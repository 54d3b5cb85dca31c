"""What a run costs, by arithmetic alone: parameters, FLOPs, bytes of shards and checkpoints, hours. Standard library only.

Memory per GPU is in `training/memory.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from megatron_octo.training.blend import Blend
from megatron_octo.training.config import MidTraining, ModelConfig
from megatron_octo.training.precision import Precision

#: Bytes per parameter of a checkpoint: the weights, Adam's two moments in fp32, and in bf16 runs the fp32 copy of the weights.
CHECKPOINT_BYTES = {Precision.FP32: 12, Precision.BF16: 14, Precision.FP8: 14}

#: Dense bf16 peak in FLOP/s by a part of the name torch gives the device, from NVIDIA's data sheets (which print the sparse
#: figure, twice as high, for all but the A100). The first part that fits counts: boards with other clocks stand before the SXM ones.
PEAK_BF16_FLOPS: dict[str, float] = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H200 NVL": 835e12,
    "GB200": 2500e12,
    "H100": 989.4e12,
    "H200": 989.4e12,
    "A100": 312e12,
    "B200": 2250e12,
}


def peak_flops(device_name: str) -> float | None:
    """What utilisation is measured against; None for a device whose peak is not known, a CPU for one."""
    return next((peak for name, peak in PEAK_BF16_FLOPS.items() if name in device_name), None)


@dataclass(frozen=True, kw_only=True)
class CorpusUse:
    """What a phase reads of one corpus. `size_tokens` and `epochs` are None where the corpus' size is not known."""

    corpus: str
    weight: float
    tokens: float
    size_tokens: int | None

    @property
    def epochs(self) -> float | None:
        return None if self.size_tokens is None else self.tokens / self.size_tokens

    @property
    def distinct_tokens(self) -> float:
        """Tokens that must lie on disk: the whole corpus once it is repeated."""
        return self.tokens if self.size_tokens is None else min(self.tokens, self.size_tokens)


def embedding_parameters(model: ModelConfig) -> int:
    return model.vocab_size * model.hidden_size


def parameters(model: ModelConfig) -> int:
    """All parameters; tied embeddings count once."""
    tables = 1 if model.share_embeddings_and_output_weights else 2
    return (
        tables * embedding_parameters(model)
        + model.num_layers * (layer_matrices(model) + layer_vectors(model))
        + model.hidden_size
    )


def flops_per_token(model: ModelConfig, seq_length: int) -> int:
    """Forward and backward FLOPs of one token as Megatron counts them: causal attention is half of the square.

    6 x (parameters that take part in matrix products: all but the input embedding) + 6 x layers x query width x length.
    """
    matmul_parameters = model.num_layers * layer_matrices(model) + embedding_parameters(model)
    return 6 * matmul_parameters + 6 * model.num_layers * _query_size(model) * seq_length


def checkpoint_bytes(config: MidTraining) -> int:
    """Weights and optimizer state of the whole model, as a checkpoint holds them."""
    return parameters(config.model) * CHECKPOINT_BYTES[config.precision]


def corpus_uses(blend: Blend, tokens: int, size_tokens: Callable[[str], int | None]) -> list[CorpusUse]:
    """Tokens and epochs per corpus when a phase reads `tokens`."""
    return [
        CorpusUse(
            corpus=share.corpus,
            weight=share.weight,
            tokens=share.weight * tokens,
            size_tokens=size_tokens(share.corpus),
        )
        for share in blend.shares
    ]


def token_bytes(vocab_size: int) -> int:
    """Bytes of one token in a `.bin` file (Megatron's `DType.optimal_dtype`: uint16 below 65,500 entries, else int32)."""
    return 2 if vocab_size < 65_500 else 4


def gpu_hours(tokens: int, tokens_per_second_per_gpu: float) -> float:
    return tokens / tokens_per_second_per_gpu / 3600


def layer_matrices(model: ModelConfig) -> int:
    """Query, key, value and output projections; gate, up and down."""
    query, key_value = _query_size(model), _key_value_size(model)
    return model.hidden_size * (2 * query + key_value + 3 * model.ffn_hidden_size)


def layer_vectors(model: ModelConfig, tensor_model_parallel_size: int = 1) -> int:
    """The two norms of a layer, the norms of a query and a key head, and a rank's part of the query, key and value bias."""
    bias = (_query_size(model) + _key_value_size(model)) // tensor_model_parallel_size if model.add_qkv_bias else 0
    return 2 * model.hidden_size + bias + (2 * model.kv_channels if model.qk_layernorm else 0)


def _query_size(model: ModelConfig) -> int:
    return model.num_attention_heads * model.kv_channels


def _key_value_size(model: ModelConfig) -> int:
    return 2 * model.num_query_groups * model.kv_channels


def kept_checkpoints(recipe: MidTraining) -> int:
    """Checkpoints at the fullest moment: those that stay, and the next, which is complete before the oldest goes."""
    stay = recipe.keep_checkpoints + 1
    if recipe.keep_every is not None:
        stay += recipe.train_iters // recipe.keep_every
    return min(stay, -(-recipe.train_iters // recipe.save_interval))


def kept_bytes(recipe: MidTraining) -> int:
    """Bytes of these checkpoints."""
    return kept_checkpoints(recipe) * checkpoint_bytes(recipe)
