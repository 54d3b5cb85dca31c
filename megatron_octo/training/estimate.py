"""What a run costs, by arithmetic alone: parameters, FLOPs, memory per GPU, bytes of shards, hours. Standard library only.

Weights, gradients and optimizer state are exact sums over the tensors of a rank. Activation memory is a first estimate.
"""

from collections.abc import Callable
from dataclasses import dataclass

from megatron_octo.training.config import Blend, MidTraining, ModelConfig, Precision

#: Bytes of a number in weights and activations.
NUMBER_BYTES = {Precision.FP32: 4, Precision.BF16: 2}
GRADIENT_BYTES = 4  # reduced and accumulated in fp32 whatever the precision
#: Bytes per parameter: Adam's two moments, and in bf16 runs the fp32 copy of the weights.
OPTIMIZER_BYTES = {Precision.FP32: 8, Precision.BF16: 12}


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on the fullest GPU."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


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
    return tables * embedding_parameters(model) + model.num_layers * _layer_parameters(model) + model.hidden_size


def flops_per_token(model: ModelConfig, seq_length: int) -> int:
    """Forward and backward FLOPs of one token as Megatron counts them: causal attention is half of the square.

    6 x (parameters that take part in matrix products: all but the input embedding) + 6 x layers x query width x length.
    """
    matmul_parameters = model.num_layers * _layer_matrices(model) + embedding_parameters(model)
    return 6 * matmul_parameters + 6 * model.num_layers * _query_size(model) * seq_length


def memory(config: MidTraining, world_size: int) -> Memory:
    """Bytes per GPU of a layout. Raises `ConfigError` when the ranks do not divide."""
    local = local_parameters(config)
    data_parallel = config.parallelism.data_parallel_size(world_size)
    optimizer = local * OPTIMIZER_BYTES[config.precision]
    if config.parallelism.use_distributed_optimizer:
        optimizer = -(-optimizer // data_parallel)
    return Memory(
        weights=local * NUMBER_BYTES[config.precision],
        gradients=local * GRADIENT_BYTES,
        optimizer=optimizer,
        activations=activation_bytes(config),
    )


def local_parameters(config: MidTraining) -> int:
    """Parameters on the fullest rank: matrices are split by tensor parallelism, norms are not."""
    model, layout = config.model, config.parallelism
    tensor, pipeline = layout.tensor_model_parallel_size, layout.pipeline_model_parallel_size
    # One pipeline stage holds both tables, unless they are tied; of several stages the last has the output table and norm.
    tables = 2 if pipeline == 1 and not model.share_embeddings_and_output_weights else 1
    layer = _layer_matrices(model) // tensor + 2 * model.hidden_size
    return model.num_layers // pipeline * layer + tables * embedding_parameters(model) // tensor + model.hidden_size


def activation_bytes(config: MidTraining) -> int:
    """A first estimate of what the backward pass keeps, per GPU, without recomputation.

    The tensor-by-tensor count of Korthikanti et al. (arXiv 2205.05198, section 4.1) for a Llama layer with a fused attention
    kernel and no dropout. Per token and layer: inputs and outputs of the two norms (4 hidden), query and attention output
    (2 query widths), key and value, gate, up and their product (3 FFN widths); tensor parallelism splits all but the norms'.
    A pipeline's first stage keeps as many micro-batches as there are stages, which cancels the layers it does not have. At
    the output: logits in the precision of the run and once more in fp32 for the loss.
    """
    model, tensor = config.model, config.parallelism.tensor_model_parallel_size
    key_value_size = 2 * model.num_query_groups * model.kv_channels
    split = 2 * _query_size(model) + key_value_size + 3 * model.ffn_hidden_size
    width = NUMBER_BYTES[config.precision]
    per_token = model.num_layers * width * (4 * model.hidden_size + split // tensor)
    logits = (width + 4) * model.vocab_size // tensor
    return config.micro_batch_size * config.seq_length * (per_token + logits)


def checkpoint_bytes(config: MidTraining) -> int:
    """Weights and optimizer state of the whole model, as a checkpoint holds them."""
    return parameters(config.model) * (NUMBER_BYTES[config.precision] + OPTIMIZER_BYTES[config.precision])


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


def _query_size(model: ModelConfig) -> int:
    return model.num_attention_heads * model.kv_channels


def _layer_parameters(model: ModelConfig) -> int:
    """Matrices and the two norms of a layer."""
    return _layer_matrices(model) + 2 * model.hidden_size


def _layer_matrices(model: ModelConfig) -> int:
    """Query, key, value and output projections; gate, up and down."""
    query, key_value = _query_size(model), 2 * model.num_query_groups * model.kv_channels
    return model.hidden_size * (2 * query + key_value + 3 * model.ffn_hidden_size)
