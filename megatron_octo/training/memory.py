"""Memory per GPU of a layout, by part. Standard library only, so that `show` can print it.

Weights, gradients and optimizer state are sums over the tensors of a rank (without the padding of Megatron's buffers, below 64
numbers each). Activations are counted tensor by tensor (`training/activations.py`), at the moment of a step that takes most;
benchmarks/memory.py compares the peak of real runs. Not included: the CUDA context, NCCL's buffers, fragments of the allocator, a
checkpoint being written.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from megatron_octo.training import estimate
from megatron_octo.training.activations import FP32_BYTES, NUMBER_BYTES, Modules, Tensors, layers_of_rank
from megatron_octo.training.config import MidTraining
from megatron_octo.training.precision import Precision

GRADIENT_BYTES = 4  # reduced and accumulated in fp32 whatever the precision
#: Bytes per parameter: Adam's two moments, and in bf16 runs the fp32 copy of the weights.
OPTIMIZER_BYTES = {Precision.FP32: 8, Precision.BF16: 12, Precision.FP8: 12}
#: Extra bytes per matrix weight in fp8: Transformer Engine keeps the matrix quantised by rows and by columns between the
#: micro-batches of a step. Read in its `linear.py`, not measured.
FP8_COPIES_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Bytes beside weights, gradients and optimizer state at the moment of a step that takes most."""

    moment: str
    #: What the layers keep for the backward pass, of all micro-batches in flight.
    layers: int
    #: The final norm, logits and their softmax.
    output: int
    #: What lives for one operation: gradients of a matrix before they are added up, Adam's intermediate results.
    temporary: int

    @property
    def total(self) -> int:
        return self.layers + self.output + self.temporary


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on the fullest GPU."""

    modules: Modules
    #: Pipeline stage of that GPU, from 0.
    stage: int
    weights: int
    gradients: int
    optimizer: int
    activations: Activations

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations.total


def memory(config: MidTraining, world_size: int, *, modules: Modules | None = None) -> Memory:
    """Bytes of the fullest rank: the first pipeline stage has most micro-batches in flight, the last one the logits.

    Args:
        modules: None takes Transformer Engine's but in fp32, whose runs are those of a CPU.

    Raises `ConfigError` when the ranks do not divide.
    """
    if modules is None:
        modules = Modules.LOCAL if config.precision is Precision.FP32 else Modules.TRANSFORMER_ENGINE
    stages = range(config.parallelism.pipeline_model_parallel_size)
    return max((_of_stage(config, world_size, stage, modules) for stage in stages), key=lambda memory: memory.total)


def local_parameters(config: MidTraining, stage: int) -> int:
    """Parameters on a rank of a pipeline stage: matrices are split by tensor parallelism, norms are not.

    Tied tables lie on the first and on the last stage, and once where these are the same.
    """
    model, layout = config.model, config.parallelism
    first, last = stage == 0, stage == layout.pipeline_model_parallel_size - 1
    tables = first + last - (first and last and model.share_embeddings_and_output_weights)
    return (
        layers_of_rank(config) * _layer_parameters(config)
        + tables * _table(config)
        + (model.hidden_size if last else 0)  # the final norm
    )


def _of_stage(config: MidTraining, world_size: int, stage: int, modules: Modules) -> Memory:
    layout = config.parallelism
    parameters = local_parameters(config, stage)
    # The optimizer is sharded over the ranks that hold the same weights: data-parallel and context-parallel.
    replicas = layout.data_parallel_size(world_size) * layout.context_parallel_size
    shards = replicas if layout.use_distributed_optimizer else 1
    tensors, first = Tensors(config, modules), stage == 0
    flying = in_flight(config, config.num_microbatches(world_size), stage)
    rank = _Stage(
        config=config, tensors=tensors, first=first, last=stage == layout.pipeline_model_parallel_size - 1, flying=flying,
        kept=flying * (tensors.layers(config.recompute) + (tensors.indices if first else tensors.received)),
        parameters=parameters, optimizer_shards=shards,
    )  # fmt: skip
    return Memory(
        modules=modules,
        stage=stage,
        weights=_weight_bytes(config, parameters),
        gradients=parameters * GRADIENT_BYTES,
        optimizer=-(-parameters * OPTIMIZER_BYTES[config.precision] // shards),
        activations=max(rank.moments(), key=lambda moment: moment.total),
    )


def _weight_bytes(config: MidTraining, parameters: int) -> int:
    if config.precision is not Precision.FP8:
        return parameters * NUMBER_BYTES[config.precision]
    matrices = layers_of_rank(config) * _layer_matrices(config)
    width = NUMBER_BYTES[Precision.BF16]
    return (parameters - matrices) * width + matrices * (width + FP8_COPIES_BYTES)


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """A rank of one pipeline stage: what its moments are made of."""

    config: MidTraining
    tensors: Tensors
    first: bool
    last: bool
    #: Model chunks in flight, and what their layers keep.
    flying: int
    kept: int
    #: Of this rank.
    parameters: int
    optimizer_shards: int

    @property
    def table(self) -> int:
        """The gradient of an embedding table, before it is added to the buffer."""
        return _table(self.config) * self.tensors.width

    @property
    def waiting(self) -> int:
        """A tied table's gradient is one sum of two: the output layer's waits until the embedding's is there."""
        return self.table if self.first and self.last and self.config.model.share_embeddings_and_output_weights else 0

    def moments(self) -> Iterator[Activations]:
        """The moments of a step that can take most."""
        yield from self._backward()
        if self.last:
            yield from self._output()
        yield from self._optimizer()

    def _backward(self) -> Iterator[Activations]:
        again = self.tensors.recomputed(self.config.recompute)
        yield Activations(
            moment="backward pass of a layer", layers=self.kept, output=0,
            temporary=again + self.tensors.layer_backward + self.waiting,
        )  # fmt: skip
        if self.first:
            # The layers of this micro-batch are done with; the others in flight are not.
            yield Activations(
                moment="gradient of the embedding", layers=self.kept - self.kept // self.flying, output=0,
                temporary=self.table + self.waiting + self.tensors.stream,
            )  # fmt: skip

    def _output(self) -> Iterator[Activations]:
        tensors = self.tensors
        yield Activations(moment="loss", layers=self.kept, output=tensors.output, temporary=tensors.loss)
        yield Activations(
            moment="backward pass of the output layer", layers=self.kept, output=tensors.output - tensors.softmax,
            temporary=tensors.logits_gradient + tensors.stream + self.table,
        )  # fmt: skip

    def _optimizer(self) -> Iterator[Activations]:
        if self.tensors.modules is not Modules.LOCAL:
            return  # fused and in place
        if self.config.parallelism.use_distributed_optimizer:
            # To scatter and to gather, gloo copies the buffer; a sum it makes in place. Of 400 MB it took 392 (2026-11-23).
            copy = self.parameters * GRADIENT_BYTES
            yield Activations(moment="reduction of the gradients", layers=0, output=0, temporary=copy)
        table = _table(self.config) if self.first or self.last else 0
        largest = min(max(table, _largest_matrix(self.config)), -(-self.parameters // self.optimizer_shards))
        # AdamW makes the root of the second moment and its quotient, of one tensor at a time.
        yield Activations(moment="optimizer step", layers=0, output=0, temporary=2 * FP32_BYTES * largest)


def in_flight(config: MidTraining, num_microbatches: int, stage: int) -> int:
    """Model chunks whose activations a rank of `stage` holds at once: Megatron's `get_pp_rank_microbatches`, and the one at work."""
    layout = config.parallelism
    behind = layout.pipeline_model_parallel_size - stage - 1
    warmup = behind
    if layout.num_chunks > 1:
        warmup = 2 * behind + (layout.num_chunks - 1) * layout.pipeline_model_parallel_size
    return min(warmup + 1, num_microbatches * layout.num_chunks)


def _table(config: MidTraining) -> int:
    """Numbers of a rank's part of the embedding table, or of the output table."""
    return estimate.embedding_parameters(config.model) // config.parallelism.tensor_model_parallel_size


def _layer_matrices(config: MidTraining) -> int:
    return estimate.layer_matrices(config.model) // config.parallelism.tensor_model_parallel_size


def _largest_matrix(config: MidTraining) -> int:
    """Gate and up are one matrix."""
    return 2 * config.model.ffn_hidden_size * config.model.hidden_size // config.parallelism.tensor_model_parallel_size


def _layer_parameters(config: MidTraining) -> int:
    vectors = estimate.layer_vectors(config.model, config.parallelism.tensor_model_parallel_size)
    return _layer_matrices(config) + vectors
