"""What a mid-training run is: model, blend, schedule, batch, layout. No torch here.

`MidTraining` is one phase: a stable run, a decay branch or one of the paper's controlled runs. A branch is made from the run it
leaves: `stable().branch(name=..., blend=..., train_tokens=...)`.
"""

import dataclasses
import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_octo.config import AT_RUN_TIME, require_positive
from megatron_octo.errors import ConfigError
from megatron_octo.training.blend import Blend
from megatron_octo.training.fusions import Fusions
from megatron_octo.training.parallelism import Parallelism
from megatron_octo.training.precision import FP8_MULTIPLE, Fp8, Precision
from megatron_octo.training.recompute import Recompute, RecomputeGranularity, RecomputeMethod
from megatron_octo.training.schedule import LearningRateStyle, Schedule


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder of the Llama, Mistral, Qwen2.5 or Qwen3 family in Megatron's words. Sizes are those of the Hugging Face `config.json`."""

    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    #: Key/value heads (GQA).
    num_query_groups: int
    #: Size of one attention head.
    kv_channels: int
    vocab_size: int
    #: Longest position the model's RoPE was trained for.
    max_position_embeddings: int
    rotary_base: float = 500_000.0
    #: Llama-3 RoPE scaling factor; Megatron-Core fixes its other three numbers (low 1, high 4, original 8192).
    rope_scaling_factor: float | None = None
    layernorm_epsilon: float = 1e-5
    #: Tied embeddings: Llama-3.2 1B and 3B tie them, Llama-3.1 8B does not.
    share_embeddings_and_output_weights: bool = False
    #: Bias on query, key and value: Qwen2.5.
    add_qkv_bias: bool = False
    #: RMS norm on every query and key head: Qwen3.
    qk_layernorm: bool = False

    def __post_init__(self) -> None:
        require_positive(
            self, "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups",
            "kv_channels", "vocab_size", "max_position_embeddings",
        )  # fmt: skip
        if self.num_attention_heads % self.num_query_groups:
            raise ConfigError(
                f"{self.num_attention_heads} attention heads do not divide into {self.num_query_groups} query groups; "
                "num_query_groups must divide num_attention_heads"
            )


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW. Betas, epsilon and clipping are UNCONFIRMED for the paper; these are Llama's and Megatron's usual values."""

    weight_decay: float = 0.1  # paper tables 2-5 [N32]
    adam_beta1: float = 0.9  # our choice
    adam_beta2: float = 0.95  # our choice
    adam_eps: float = 1e-8  # our choice
    #: Norm to which larger gradients are scaled down; None leaves them.
    clip_grad: float | None = 1.0  # our choice

    def __post_init__(self) -> None:
        for what in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, what) < 1:
                raise ConfigError(f"{what} is {getattr(self, what):g}; it lies from 0 up to below 1")
        if self.weight_decay < 0 or self.adam_eps <= 0 or (self.clip_grad is not None and self.clip_grad <= 0):
            raise ConfigError(
                f"weight_decay {self.weight_decay:g}, adam_eps {self.adam_eps:g}, clip_grad {self.clip_grad}: decay lies at 0 or above, "
                "epsilon and clip_grad above 0 (clip_grad none does not clip)"
            )


@dataclass(frozen=True, kw_only=True)
class Anomalies:
    """Steps whose update is left out: a loss or gradient that is not finite, or a gradient norm far above the last ones."""

    #: A norm above this multiple of the median of the last `window` norms is a spike; None lets any finite norm pass. A guess:
    #: gradients are clipped anyway, and such a norm comes from data that is not text or from hardware.
    spike_factor: float | None = 10.0
    #: Norms remembered; half of them must be there before a spike is called one.
    window: int = 128
    #: Steps one phase may skip before it stops and names the documents. A guess.
    max_skipped_steps: int = 10

    def __post_init__(self) -> None:
        require_positive(self, "window")
        if self.max_skipped_steps < 0 or (self.spike_factor is not None and self.spike_factor <= 1):
            raise ConfigError(
                f"spike_factor {self.spike_factor} and max_skipped_steps {self.max_skipped_steps}: a factor lies above 1 (or none), "
                "a number of steps at 0 or above"
            )


@dataclass(frozen=True, kw_only=True)
class Validation:
    """A blend of corpora of its own, read with the same few windows every time and never trained on."""

    blend: Blend
    #: Tokens read each time, in whole global batches.
    tokens: int
    #: Tokens of training between two times; once more at the end.
    interval_tokens: int

    def __post_init__(self) -> None:
        require_positive(self, "tokens", "interval_tokens")


class OptimizerState(enum.Enum):
    """What a branch takes from its parent besides the weights."""

    CARRY = "carry"
    RESET = "reset"


@dataclass(frozen=True, kw_only=True)
class BranchPoint:
    """Where a branch leaves its parent."""

    #: Recipe name of the parent run; `--init-from DIR` names its directory.
    parent: str
    #: Tokens the parent had trained on at that point.
    at_tokens: int
    #: UNCONFIRMED in the paper whether Adam's moments carry over; carrying them is what a continued run does.
    optimizer_state: OptimizerState = OptimizerState.CARRY


@dataclass(frozen=True, kw_only=True)
class MidTraining:
    """One phase of mid-training."""

    name: str
    model: ModelConfig
    #: Hugging Face name or directory of the starting weights; None starts from random weights.
    init_from: str | None
    #: Hugging Face name or directory of the tokenizer the shards were made with.
    tokenizer: str
    blend: Blend
    #: Tokens of this phase alone, not counting the parent's.
    train_tokens: int
    seq_length: int
    #: Sequences per optimizer step, over all ranks.
    global_batch_size: int
    #: Sequences per rank and forward pass.
    micro_batch_size: int = field(metadata=AT_RUN_TIME)
    schedule: Schedule
    optimizer: Optimizer = Optimizer()
    parallelism: Parallelism = field(default=Parallelism(), metadata=AT_RUN_TIME)
    precision: Precision = Precision.BF16
    fp8: Fp8 = field(default=Fp8())
    recompute: Recompute = field(default=Recompute(), metadata=AT_RUN_TIME)
    fusions: Fusions = field(default=Fusions(), metadata=AT_RUN_TIME)
    #: Let tokens attend to their own document only. RoPE positions are relative, so restarting them would change nothing.
    reset_attention_mask: bool = False
    anomalies: Anomalies = field(default=Anomalies(), metadata=AT_RUN_TIME)
    validation: Validation | None = None
    branch_point: BranchPoint | None = None
    #: Standard deviation of random initial weights; unused with `init_from`. Megatron's default.
    init_method_std: float = 0.02
    #: Seeds the initial weights and the data order.
    seed: int = 1234
    #: Tokens between checkpoints; one is always written at the end.
    save_interval_tokens: int = field(metadata=AT_RUN_TIME)
    #: Checkpoints kept, the newest first.
    keep_checkpoints: int = field(default=3, metadata=AT_RUN_TIME)
    #: Keep one every so many tokens for good, to branch from; None keeps the newest alone.
    keep_every_tokens: int | None = field(default=None, metadata=AT_RUN_TIME)

    def __post_init__(self) -> None:
        require_positive(self, "seq_length", "global_batch_size", "micro_batch_size", "keep_checkpoints")
        if self.train_iters < 1:
            raise ConfigError(
                f"train_tokens {self.train_tokens:,} is less than one step of {self.tokens_per_step:,} tokens "
                f"(global_batch_size {self.global_batch_size} x seq_length {self.seq_length})"
            )
        if self.seq_length > self.model.max_position_embeddings:
            raise ConfigError(
                f"seq_length {self.seq_length} exceeds the model's max_position_embeddings {self.model.max_position_embeddings}"
            )
        if self.schedule.warmup_tokens >= self.trained_tokens:
            raise ConfigError(
                f"warmup_tokens {self.schedule.warmup_tokens:,} leave nothing of the phase's {self.trained_tokens:,} tokens"
            )
        if self.init_method_std <= 0:
            raise ConfigError(f"init_method_std is {self.init_method_std:g}; it lies above 0")
        if self.schedule.wsd_decay_tokens is not None and not (
            0 < self.schedule.wsd_decay_tokens <= self.trained_tokens - self.schedule.warmup_tokens
        ):
            raise ConfigError(
                f"wsd_decay_tokens {self.schedule.wsd_decay_tokens:,} do not fit: above 0, and with {self.schedule.warmup_tokens:,} "
                f"warmup_tokens at most the {self.trained_tokens:,} of the phase"
            )
        self._check_intervals()
        if self.keep_every is not None and self.keep_every % self.save_interval:
            raise ConfigError(
                f"keep_every_tokens is {self.keep_every:,} steps and save_interval_tokens {self.save_interval:,}: checkpoints are "
                "kept out of those saved, so the first must be a multiple of the second"
            )
        self.parallelism.require_fits(self.model, self.seq_length)
        self._check_recompute()
        self._check_fp8()
        if self.fusions.cross_entropy and self.precision is Precision.FP32:
            raise ConfigError(
                "fusions.cross_entropy rounds the gradient of the logits to bf16, which precision fp32 is not; set it to false"
            )
        self._check_validation()

    def _check_intervals(self) -> None:
        intervals = {"save_interval_tokens": self.save_interval_tokens, "keep_every_tokens": self.keep_every_tokens}
        if self.validation is not None:
            intervals |= {
                "validation.tokens": self.validation.tokens,
                "validation.interval_tokens": self.validation.interval_tokens,
            }
        for what, tokens in intervals.items():
            if tokens is not None and tokens < self.tokens_per_step:
                raise ConfigError(f"{what} {tokens:,} is less than one step of {self.tokens_per_step:,} tokens")

    def _check_recompute(self) -> None:
        layers = self.model.num_layers // self.parallelism.pipeline_model_parallel_size // self.parallelism.num_chunks
        num_layers, method = self.recompute.num_layers, self.recompute.method
        if self.recompute.granularity is not RecomputeGranularity.FULL:
            return
        if num_layers > layers or (method is RecomputeMethod.UNIFORM and layers % num_layers):
            raise ConfigError(
                f"recompute.num_layers {num_layers} with method {method.value} does not fit the {layers} layers of a pipeline stage or "
                f"chunk; uniform takes a divisor of {layers}, block at most {layers}"
            )

    def _check_fp8(self) -> None:
        if self.precision is not Precision.FP8:
            return
        tensor = self.parallelism.tensor_model_parallel_size
        sides = {
            "hidden_size": self.model.hidden_size,
            "ffn_hidden_size per tensor-parallel rank": self.model.ffn_hidden_size // tensor,
            "query columns per tensor-parallel rank": self.model.num_attention_heads * self.model.kv_channels // tensor,
            "tokens of a micro-batch": self.micro_batch_size
            * self.seq_length
            // self.parallelism.context_parallel_size,
        }
        for what, size in sides.items():
            if size % FP8_MULTIPLE:
                raise ConfigError(
                    f"{what}: {size} is no multiple of {FP8_MULTIPLE}, which fp8 needs; set precision=bf16"
                )
        layers = self.model.num_layers // self.parallelism.pipeline_model_parallel_size
        most = max(self.fp8.num_layers_at_start_in_bf16, self.fp8.num_layers_at_end_in_bf16)
        if most > layers:
            raise ConfigError(
                f"{most} layers at one end of the model are to stay in bf16, and a pipeline stage has {layers}; give fp8.num_layers_at_start_in_bf16 "
                "and fp8.num_layers_at_end_in_bf16 no more than that"
            )

    def _check_validation(self) -> None:
        held_out = {share.corpus for share in self.validation.blend.shares} if self.validation is not None else set()
        if both := held_out.intersection(share.corpus for share in self.blend.shares):
            raise ConfigError(
                f"validation reads {', '.join(sorted(both))}, which the run trains on; give it corpora of its own (tokenise a part of "
                "the text apart)"
            )

    @property
    def tokens_per_step(self) -> int:
        return self.global_batch_size * self.seq_length

    @property
    def train_iters(self) -> int:
        """Optimizer steps of this phase: the budget in whole steps, to the nearest (20B at 4,194,304 are 4,768)."""
        return math.floor(self.train_tokens / self.tokens_per_step + 0.5)

    @property
    def trained_tokens(self) -> int:
        """Tokens of this phase in whole steps."""
        return self.train_iters * self.tokens_per_step

    @property
    def save_interval(self) -> int:
        """Steps between checkpoints."""
        return self.save_interval_tokens // self.tokens_per_step

    @property
    def keep_every(self) -> int | None:
        """Steps between checkpoints that stay."""
        return None if self.keep_every_tokens is None else self.keep_every_tokens // self.tokens_per_step

    @property
    def corpora(self) -> list[str]:
        """Names of the corpora of both blends."""
        blends = [self.blend, *([self.validation.blend] if self.validation is not None else [])]
        return list(dict.fromkeys(share.corpus for blend in blends for share in blend.shares))

    @property
    def validation_interval(self) -> int:
        """Steps between validations; without a validation blend, as many as the phase has."""
        if self.validation is None:
            return self.train_iters
        return self.validation.interval_tokens // self.tokens_per_step

    @property
    def validation_steps(self) -> int:
        """Global batches read in each validation."""
        return 0 if self.validation is None else self.validation.tokens // self.tokens_per_step

    def num_microbatches(self, world_size: int) -> int:
        """Forward passes per rank and step. Raises `ConfigError` when the batch does not divide."""
        data_parallel = self.parallelism.data_parallel_size(world_size)
        per_pass = self.micro_batch_size * data_parallel
        if self.global_batch_size % per_pass:
            raise ConfigError(
                f"global_batch_size {self.global_batch_size} does not divide by micro_batch_size {self.micro_batch_size} x "
                f"{data_parallel} data-parallel ranks = {per_pass}"
            )
        num_microbatches = self.global_batch_size // per_pass
        if self.parallelism.num_chunks > 1 and num_microbatches % self.parallelism.pipeline_model_parallel_size:
            raise ConfigError(
                f"{num_microbatches} micro-batches per rank do not divide by pipeline_model_parallel_size "
                f"{self.parallelism.pipeline_model_parallel_size}, which virtual stages need; change global_batch_size or "
                "micro_batch_size"
            )
        return num_microbatches

    def branch(
        self,
        *,
        name: str,
        blend: Blend,
        train_tokens: int,
        schedule: Schedule,
        at_tokens: int | None = None,
        optimizer_state: OptimizerState = OptimizerState.CARRY,
    ) -> "MidTraining":
        """A phase that starts from this one's weights after `at_tokens` (default: its end) with its own blend and budget."""
        leave_at = self.trained_tokens if at_tokens is None else at_tokens
        if not 0 < leave_at <= self.trained_tokens:
            raise ConfigError(
                f"{name} leaves {self.name} at {leave_at:,} tokens, which trains for {self.trained_tokens:,}"
            )
        return dataclasses.replace(
            self,
            name=name,
            blend=blend,
            train_tokens=train_tokens,
            schedule=schedule,
            branch_point=BranchPoint(parent=self.name, at_tokens=leave_at, optimizer_state=optimizer_state),
        )


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is watched and saved; none of it changes what is learned."""

    #: Write checkpoints in the background while training goes on.
    async_save: bool = True
    #: A rank without progress for so long is named, its stacks are written, and the run ends. A guess: ten minutes is longer than
    #: any step, compilation or save we know of.
    watchdog_seconds: float = 600.0
    #: Project of Weights & Biases to log to as well; None logs to metrics.jsonl and TensorBoard alone.
    wandb_project: str | None = None

    def __post_init__(self) -> None:
        if self.watchdog_seconds < 1:
            raise ConfigError(
                f"watchdog_seconds is {self.watchdog_seconds:g}; no step is that short: give at least 1, better many steps' time"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """A recipe on this machine's files: what `python -m megatron_octo.training.run` gets."""

    recipe: MidTraining
    #: Directory of tokenised corpora, one stage directory per corpus name of the blend.
    shards: Path
    #: The parent's training directory for a branch, a converted checkpoint directory for `init_from`, else None.
    init_checkpoint: Path | None = None
    options: RunOptions = field(default=RunOptions(), metadata=AT_RUN_TIME)

    def continues(self, changed: Mapping[str, tuple[Any, Any]]) -> bool:
        """Whether an earlier run that differs in `changed` (path: old, new) is the beginning of this one.

        More tokens at a constant learning rate are: the order of the data does not depend on how many there will be.
        """
        old, new = changed.get("recipe.train_tokens", (0, 0))
        return (
            changed.keys() == {"recipe.train_tokens"}
            and old < new
            and self.recipe.schedule.style is LearningRateStyle.CONSTANT
        )
