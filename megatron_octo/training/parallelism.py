"""How one model lies over many ranks, and which layouts are refused. Standard library only.

A world of N ranks is TP x PP x CP x DP: data parallelism takes what the other three leave. Megatron-Core checks some impossible
layouts by assertion when the model is built, and some wrong ones not at all; here they are refused while a config is parsed.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from megatron_octo.errors import ConfigError

#: Layouts an error message proposes.
PROPOSALS = 3


class Shape(Protocol):
    """What of a model must divide."""

    @property
    def num_layers(self) -> int: ...
    @property
    def num_query_groups(self) -> int: ...
    @property
    def ffn_hidden_size(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Parallelism:
    """Ranks per axis, in Megatron's words; data parallelism takes what is left of the world."""

    tensor_model_parallel_size: int = 1
    pipeline_model_parallel_size: int = 1
    #: Model chunks per pipeline rank (interleaved schedule); None runs one chunk.
    virtual_pipeline_model_parallel_size: int | None = None
    context_parallel_size: int = 1
    #: Split norms and residuals over the tensor-parallel ranks along the sequence.
    sequence_parallel: bool = False
    #: Shard the optimizer state over the data-parallel ranks (ZeRO-1).
    use_distributed_optimizer: bool = True
    #: Reduce gradients bucket by bucket during the backward pass.
    overlap_grad_reduce: bool = False
    #: Gather updated weights bucket by bucket during the next forward pass.
    overlap_param_gather: bool = False
    #: Send and receive between virtual stages while computing.
    overlap_p2p_comm: bool = False

    def __post_init__(self) -> None:
        for axis, size in zip(("tensor_model", "pipeline_model", "context"), self._sizes, strict=True):
            if size < 1:
                raise ConfigError(f"{axis}_parallel_size is {size}; it must be at least 1")
        self._check_virtual_stages()
        if self.sequence_parallel and self.tensor_model_parallel_size == 1:
            raise ConfigError(
                "sequence_parallel splits over the tensor-parallel ranks, and tensor_model_parallel_size is 1; "
                "set sequence_parallel=false or more tensor-parallel ranks"
            )
        if self.overlap_param_gather and not (self.use_distributed_optimizer and self.overlap_grad_reduce):
            raise ConfigError(
                "overlap_param_gather needs use_distributed_optimizer=true and overlap_grad_reduce=true: without them no rank "
                "gathers weights, or the gathering has nothing to hide behind"
            )

    def _check_virtual_stages(self) -> None:
        chunks, stages = self.virtual_pipeline_model_parallel_size, self.pipeline_model_parallel_size
        if chunks is None:
            if self.overlap_p2p_comm:
                raise ConfigError(
                    "overlap_p2p_comm works with virtual stages only; set it to false or set "
                    "virtual_pipeline_model_parallel_size"
                )
            return
        if chunks < 2 or stages < 2:
            raise ConfigError(
                f"virtual_pipeline_model_parallel_size {chunks} with pipeline_model_parallel_size {stages}: both must be at "
                "least 2; leave virtual stages at none otherwise"
            )
        if stages == 2 and not self.overlap_p2p_comm:
            # Megatron-Core 0.16.1 runs this without an error and computes wrong gradients (docs/measurements.md).
            raise ConfigError(
                "virtual stages on pipeline_model_parallel_size 2 train on wrong gradients without overlap_p2p_comm=true; set it, "
                "or use no virtual stages, or at least 3 pipeline stages"
            )

    @property
    def _sizes(self) -> tuple[int, int, int]:
        return self.tensor_model_parallel_size, self.pipeline_model_parallel_size, self.context_parallel_size

    @property
    def num_chunks(self) -> int:
        """Model chunks on each rank."""
        return self.virtual_pipeline_model_parallel_size or 1

    @property
    def model_parallel_size(self) -> int:
        """Ranks that one replica of the model takes."""
        return math.prod(self._sizes)

    def data_parallel_size(self, world_size: int) -> int:
        """Raises `ConfigError` with the product that failed when the world does not divide."""
        size, rest = divmod(world_size, self.model_parallel_size)
        if rest or not size:
            raise ConfigError(
                f"{world_size} ranks do not divide into {self.spelled}; use a multiple of {self.model_parallel_size}"
            )
        return size

    @property
    def spelled(self) -> str:
        """`TP 2 x PP 1 x CP 1`."""
        return spell(*self._sizes)

    def require_fits(self, model: Shape, seq_length: int) -> None:
        """Raises `ConfigError` naming what does not divide, and the nearest layouts in which everything does."""
        if problem := self._misfit(model, seq_length):
            near = ", ".join(itertools.islice(self._nearest(model, seq_length), PROPOSALS))
            fits = (
                f"layouts that fit, the nearest first: {near}" if near else "no smaller layout with these options fits"
            )
            raise ConfigError(f"{problem}; {fits}")

    def _misfit(self, model: Shape, seq_length: int) -> str | None:
        tensor, pipeline, context = self._sizes
        sequence_parts = (2 * context if context > 1 else 1) * (tensor if self.sequence_parallel else 1)
        rules = (
            (model.num_query_groups, "query groups", tensor, f"tensor_model_parallel_size {tensor}"),
            (model.ffn_hidden_size, "FFN columns", tensor, f"tensor_model_parallel_size {tensor}"),
            (model.vocab_size, "vocabulary entries", tensor, f"tensor_model_parallel_size {tensor}"),
            (
                model.num_layers,
                "layers",
                pipeline * self.num_chunks,
                f"pipeline_model_parallel_size {pipeline}"
                + (f" x {self.num_chunks} virtual stages" if self.num_chunks > 1 else ""),
            ),
            (
                seq_length,
                "tokens of a sequence",
                sequence_parts,
                # Each rank takes one chunk from the front and one from the back, so that causal attention is shared evenly.
                f"{sequence_parts} = "
                + " x ".join(
                    ([f"2 x context_parallel_size {context}"] if context > 1 else [])
                    + ([f"tensor_model_parallel_size {tensor} (sequence_parallel)"] if self.sequence_parallel else [])
                ),
            ),
        )
        for value, what, divisor, spelled in rules:
            if value % divisor:
                return f"{value:,} {what} do not divide by {spelled}"
        return None

    def _nearest(self, model: Shape, seq_length: int) -> Iterator[str]:
        """Layouts over at most as many ranks whose parts divide, those that change least first."""
        most = self.model_parallel_size

        def distance(sizes: tuple[int, int, int]) -> tuple[float, int]:
            far = sum(abs(math.log(size / wanted)) for size, wanted in zip(sizes, self._sizes, strict=True))
            return far, -math.prod(sizes)

        candidates = [
            (tensor, pipeline, context)
            for tensor in _divisors(math.gcd(model.num_query_groups, model.ffn_hidden_size, model.vocab_size), most)
            for pipeline in _divisors(model.num_layers, most)
            for context in range(1, most + 1)
            if tensor * pipeline * context <= most and self._fits(model, seq_length, tensor, pipeline, context)
        ]
        return (spell(*sizes) for sizes in sorted(candidates, key=distance))

    def _fits(self, model: Shape, seq_length: int, tensor: int, pipeline: int, context: int) -> bool:
        try:
            layout = dataclasses.replace(
                self,
                tensor_model_parallel_size=tensor,
                pipeline_model_parallel_size=pipeline,
                context_parallel_size=context,
            )
        except ConfigError:
            return False
        return layout._misfit(model, seq_length) is None


def spell(tensor: int, pipeline: int, context: int) -> str:
    return f"TP {tensor} x PP {pipeline} x CP {context}"


def _divisors(number: int, most: int) -> list[int]:
    return [size for size in range(1, min(number, most) + 1) if number % size == 0]
