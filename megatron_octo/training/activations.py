"""What autograd keeps of one micro-batch, and what a step holds for a moment, tensor by tensor. Standard library only.

Letters of the formulas: t tokens and s positions of a micro-batch on this rank, h hidden size; what tensor parallelism splits (query
and key width, FFN, vocabulary) is counted as this rank's part. tests/integration/test_kept_tensors.py counts the tensors of real models.
"""

import enum

from megatron_octo.training.config import MidTraining
from megatron_octo.training.precision import Precision
from megatron_octo.training.recompute import Recompute, RecomputeGranularity, RecomputeMethod

FP32_BYTES = 4
FP8_BYTES = 1
#: Bytes of a number in weights and activations; fp8 is a format of matrix products inside a bf16 model.
NUMBER_BYTES = {Precision.FP32: 4, Precision.BF16: 2, Precision.FP8: 2}


class Modules(enum.Enum):
    """Whose modules a layer is made of (`training/spec.py`)."""

    #: On the CPU: Megatron's own with our attention and norm, torch's AdamW, gloo. Counted by reading and by test.
    LOCAL = "local"
    #: The same on a GPU, whose kernels for norms, attention and AdamW keep what Transformer Engine's do. Counted by reading.
    GPU = "local, on a GPU"
    #: Counted by reading Transformer Engine 2.x (`layernorm_linear.py`, `linear.py`, flash attention); no run has confirmed it.
    TRANSFORMER_ENGINE = "Transformer Engine"


class Tensors:
    """Bytes of the tensors of one micro-batch and one model chunk on a rank."""

    def __init__(self, config: MidTraining, modules: Modules) -> None:
        model, layout = config.model, config.parallelism
        tensor = layout.tensor_model_parallel_size
        self.model, self.layout, self.modules = model, layout, modules
        self.documents = config.reset_attention_mask
        self.fp8 = config.precision is Precision.FP8
        self.width = NUMBER_BYTES[config.precision]
        self.positions = config.seq_length // layout.context_parallel_size
        self.tokens = config.micro_batch_size * self.positions
        #: Tokens of the residual stream and of the norms.
        self.stream_tokens = self.tokens // tensor if layout.sequence_parallel else self.tokens
        self.query = model.num_attention_heads * model.kv_channels // tensor
        self.key = model.num_query_groups * model.kv_channels // tensor
        self.heads, self.groups = model.num_attention_heads // tensor, model.num_query_groups // tensor
        self.ffn = model.ffn_hidden_size // tensor
        self.vocabulary = model.vocab_size // tensor
        self.num_layers = layers_of_rank(config) // layout.num_chunks

    @property
    def stream(self) -> int:
        """The residual stream, or its gradient: t h."""
        return self.width * self.stream_tokens * self.model.hidden_size

    @property
    def angles(self) -> int:
        """RoPE's angles in fp32, which recomputed layers are called with again: s x head size, one tensor for all layers."""
        return FP32_BYTES * self.positions * self.model.kv_channels

    @property
    def received(self) -> int:
        """A later stage holds on to what it received; in fp32 that is the tensor which the first norm keeps."""
        keeps_copy = self.modules is Modules.LOCAL and self.width != FP32_BYTES
        return self.stream if keeps_copy else 0

    @property
    def indices(self) -> int:
        """Token ids for the embedding, and which of them lie in another rank's part of the table."""
        return self.tokens * (8 + (self.layout.tensor_model_parallel_size > 1))

    def layers(self, recompute: Recompute) -> int:
        """What autograd keeps of all layers."""
        if recompute.granularity is not RecomputeGranularity.FULL:
            return self.num_layers * self.layer(recompute)
        if recompute.method is RecomputeMethod.UNIFORM:
            return self.num_layers // recompute.num_layers * self.stream + self.angles
        recomputed = min(self.num_layers, recompute.num_layers)
        return recomputed * self.stream + self.angles + (self.num_layers - recomputed) * self.layer(recompute)

    def layer(self, recompute: Recompute) -> int:
        """What autograd keeps of one layer."""
        left_out = recompute.modules if recompute.granularity is RecomputeGranularity.SELECTIVE else ()
        norms = 2 * self._norm(matrix_follows_in_fp8=self.fp8)
        attention = self._projections() + self._core_attention(recomputed="core_attn" in left_out)
        return norms + attention + (0 if "mlp" in left_out else self._mlp())

    def _norm(self, *, matrix_follows_in_fp8: bool) -> int:
        """Input, inverse root mean square, and output, which the next matrix product keeps.

        Torch's RMS norm on the CPU is a chain of fp32 operations and keeps the normalised input too.
        """
        kept = 2 * FP32_BYTES if self.modules is Modules.LOCAL else self.width
        output = FP8_BYTES if matrix_follows_in_fp8 else self.width
        return self.stream_tokens * ((kept + output) * self.model.hidden_size + FP32_BYTES)

    def _projections(self) -> int:
        """Cosines and sines of the positions for queries and keys; with QK norm what those norms keep; in fp8 a copy.

        Unfused RoPE writes the cosines and sines in the precision of the run anew for each layer.
        """
        rotary = 4 * self.width * self.positions * self.model.kv_channels
        output = FP8_BYTES * self.tokens * self.query if self.fp8 else 0
        return rotary + output + (self._head_norms() if self.model.qk_layernorm else 0)

    def _head_norms(self) -> int:
        """Input, normalised input and inverse root mean square of every query and key head."""
        # Both are views of the projection's output, which the values keep alive, but queries of several groups are put together.
        queries = self.query if self.groups > 1 else 0
        if self.modules is not Modules.LOCAL:
            return self.tokens * (self.width * queries + FP32_BYTES * (self.heads + self.groups))
        inputs = queries if self.width == FP32_BYTES else self.query + self.key
        return self.tokens * FP32_BYTES * (inputs + self.query + self.key + self.heads + self.groups)

    def _core_attention(self, *, recomputed: bool) -> int:
        """Query, keys and values, the result, log-sum-exp per head. The result is the next matrix product's input.

        Pieces of a window (documents, context parallelism) are put together into a second result.
        """
        in_pieces = self.layout.context_parallel_size > 1 or self.documents
        pieces = self.query if in_pieces and not recomputed else 0
        log_sum_exp = 0 if recomputed else FP32_BYTES * self.heads
        gathered = self.layout.context_parallel_size > 1 and not recomputed
        keys_values = self._whole_window() if gathered else self.tokens * self.width * (self.key + self._projection)
        return self.tokens * (self.width * (2 * self.query + pieces) + log_sum_exp) + keys_values

    @property
    def _projection(self) -> int:
        """The matrix product that makes query, key and value, of which the values are a view; the other two are new after RoPE."""
        return self.query + 2 * self.key

    def _whole_window(self) -> int:
        """Context parallelism: keys and values of all ranks; the projection only where the keys' norm keeps its view of it."""
        context = self.layout.context_parallel_size
        viewed = self.model.qk_layernorm and (self.modules is not Modules.LOCAL or self.width == FP32_BYTES)
        numbers = 2 * self.key * context + (self._projection if viewed else 0)
        # Without a GPU's kernels for it, a chunk that sees more keys than it has queries gets a mask written out: two chunks, of
        # which one sees r + 1 chunks and the other 2 C - r, on all ranks r but the first.
        chunk = self.positions // 2
        mask = chunk * chunk * (2 * context + 1) if self.modules is Modules.LOCAL else 0
        return self.width * (self.tokens * numbers + mask)

    def _mlp(self) -> int:
        """Gate and up in one tensor, the gate's SiLU, up again (Megatron adds 0 to it), their product."""
        product = FP8_BYTES if self.fp8 else self.width
        return self.tokens * self.ffn * (4 * self.width + product)

    @property
    def output(self) -> int:
        """Final norm, softmax in fp32, and per token a mask and an index of the label."""
        return self._norm(matrix_follows_in_fp8=False) + self.softmax + self.tokens * (1 + 8)

    @property
    def softmax(self) -> int:
        """In fp32 it takes the place of the logits, and its gradient the softmax's."""
        return FP32_BYTES * self.tokens * self.vocabulary

    @property
    def loss(self) -> int:
        """Beside the softmax: the logits and the stream behind them, if they are of another precision."""
        return 0 if self.width == FP32_BYTES else self.logits_gradient + self.stream

    @property
    def logits_gradient(self) -> int:
        return self.width * self.tokens * self.vocabulary

    @property
    def layer_backward(self) -> int:
        """The stream's gradient and what the MLP's backward pass adds to what is kept: it is the widest part of a layer.

        Either the gradients of SiLU and up while all is still there, or the gradient of the product and of the matrix behind it.
        """
        columns = self.width * self.tokens * self.ffn
        matrix = self.width * self.ffn * self.model.hidden_size
        gathered = self.width * self.tokens * self.model.hidden_size if self.layout.sequence_parallel else 0
        return self.stream + gathered + max(2 * columns, columns + matrix)

    def recomputed(self, recompute: Recompute) -> int:
        """What is made again at once during the backward pass."""
        if recompute.granularity is RecomputeGranularity.NONE:
            return 0
        plain = Recompute()
        if recompute.granularity is RecomputeGranularity.SELECTIVE:
            return self.layer(plain) - self.layer(recompute)
        at_once = min(recompute.num_layers, self.num_layers) if recompute.method is RecomputeMethod.UNIFORM else 1
        return at_once * self.layer(plain)


def layers_of_rank(config: MidTraining) -> int:
    """Layers on a rank, over all its chunks."""
    return config.model.num_layers // config.parallelism.pipeline_model_parallel_size
