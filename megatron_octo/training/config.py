"""What a mid-training run is: model, blend, schedule, batch, layout. No torch here.

`MidTraining` is one phase: a stable run, a decay branch or one of the paper's controlled runs. A branch is made from the run it
leaves: `stable().branch(name=..., blend=..., train_tokens=...)`.
"""

import dataclasses
import enum
import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from megatron_octo.errors import ConfigError


def _require_positive(config: object, *fields: str) -> None:
    for field in fields:
        value = getattr(config, field)
        if value < 1:
            raise ConfigError(f"{field} is {value}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A Llama-family decoder in Megatron's words. Sizes are those of the model's Hugging Face `config.json`."""

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

    def __post_init__(self) -> None:
        _require_positive(
            self, "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups",
            "kv_channels", "vocab_size", "max_position_embeddings",
        )  # fmt: skip
        if self.num_attention_heads % self.num_query_groups:
            raise ConfigError(
                f"{self.num_attention_heads} attention heads do not divide into {self.num_query_groups} query groups; "
                "num_query_groups must divide num_attention_heads"
            )


@dataclass(frozen=True, kw_only=True)
class Share:
    """A corpus and its share of the phase's tokens."""

    corpus: str
    weight: float


@dataclass(frozen=True, kw_only=True)
class Blend:
    """Corpora and their token shares; the shares sum to 1."""

    shares: tuple[Share, ...]

    def __post_init__(self) -> None:
        names = [share.corpus for share in self.shares]
        if len(set(names)) != len(names):
            raise ConfigError(f"a corpus appears twice in the blend: {', '.join(names)}; add its shares up")
        for share in self.shares:
            if not 0 < share.weight <= 1:
                raise ConfigError(f"the share of '{share.corpus}' is {share.weight:g}; shares lie above 0 and up to 1")
        # Shares are decimals people wrote: exact arithmetic, no tolerance to argue about.
        total = sum(Fraction(str(share.weight)) for share in self.shares)
        if total != 1:
            written = " + ".join(f"{share.corpus} {share.weight:g}" for share in self.shares)
            raise ConfigError(f"the shares of a blend must sum to 1, these sum to {float(total):g}: {written}")


def blend(**weights: float) -> Blend:
    """`blend(web=0.9, qa=0.1)`; corpus names use underscores."""
    return Blend(shares=tuple(Share(corpus=corpus, weight=weight) for corpus, weight in weights.items()))


class LearningRateStyle(enum.Enum):
    """Shape of the learning rate between the end of warmup and the end of the phase."""

    CONSTANT = "constant"
    COSINE = "cosine"
    LINEAR = "linear"
    #: 1 - sqrt, the decay of WSD papers; Megatron calls it minus_sqrt.
    MINUS_SQRT = "minus_sqrt"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rate of one phase, counted in this phase's own tokens."""

    style: LearningRateStyle
    peak_lr: float
    #: Where the decay ends; equal to `peak_lr` for a constant phase.
    min_lr: float
    #: The paper warms up nowhere ([P-§2], tables 2-5).
    warmup_tokens: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.min_lr <= self.peak_lr or self.peak_lr <= 0:
            raise ConfigError(
                f"min_lr {self.min_lr:g} and peak_lr {self.peak_lr:g}: need 0 <= min_lr <= peak_lr, peak_lr > 0"
            )
        if self.style is LearningRateStyle.CONSTANT and self.min_lr != self.peak_lr:
            raise ConfigError(
                f"a constant schedule has one learning rate, not {self.peak_lr:g} and {self.min_lr:g}; set both the same"
            )


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW. Betas, epsilon and clipping are UNCONFIRMED for the paper; these are Llama's and Megatron's usual values."""

    weight_decay: float = 0.1  # paper tables 2-5 [N32]
    adam_beta1: float = 0.9  # our choice
    adam_beta2: float = 0.95  # our choice
    adam_eps: float = 1e-8  # our choice
    clip_grad: float = 1.0  # our choice

    def __post_init__(self) -> None:
        for what in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, what) < 1:
                raise ConfigError(f"{what} is {getattr(self, what):g}; it lies from 0 up to below 1")


class Precision(enum.Enum):
    """Number format of weights and activations; gradients are reduced and accumulated in fp32."""

    FP32 = "fp32"
    BF16 = "bf16"


@dataclass(frozen=True, kw_only=True)
class Parallelism:
    """Ranks per axis; data parallelism takes what is left of the world."""

    tensor_model_parallel_size: int = 1
    pipeline_model_parallel_size: int = 1
    #: Shard the optimizer state over the data-parallel ranks (ZeRO-1).
    use_distributed_optimizer: bool = True

    def __post_init__(self) -> None:
        _require_positive(self, "tensor_model_parallel_size", "pipeline_model_parallel_size")

    @property
    def model_parallel_size(self) -> int:
        return self.tensor_model_parallel_size * self.pipeline_model_parallel_size

    def data_parallel_size(self, world_size: int) -> int:
        """Raises `ConfigError` with the product that failed when the world does not divide."""
        size, rest = divmod(world_size, self.model_parallel_size)
        if rest or not size:
            raise ConfigError(
                f"{world_size} ranks do not divide into TP {self.tensor_model_parallel_size} x "
                f"PP {self.pipeline_model_parallel_size}; use a multiple of {self.model_parallel_size}"
            )
        return size


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
    micro_batch_size: int
    schedule: Schedule
    optimizer: Optimizer = Optimizer()
    parallelism: Parallelism = Parallelism()
    precision: Precision = Precision.BF16
    branch_point: BranchPoint | None = None
    #: Standard deviation of random initial weights; unused with `init_from`. Megatron's default.
    init_method_std: float = 0.02
    #: Seeds the initial weights and the data order.
    seed: int = 1234
    #: Tokens between checkpoints; one is always written at the end.
    save_interval_tokens: int
    #: Checkpoints kept, the newest first.
    keep_checkpoints: int = 3

    def __post_init__(self) -> None:
        _require_positive(self, "seq_length", "global_batch_size", "micro_batch_size", "keep_checkpoints")
        if self.train_iters < 1:
            raise ConfigError(
                f"train_tokens {self.train_tokens:,} is less than one step of {self.tokens_per_step:,} tokens "
                f"(global_batch_size {self.global_batch_size} x seq_length {self.seq_length})"
            )
        if self.seq_length > self.model.max_position_embeddings:
            raise ConfigError(
                f"seq_length {self.seq_length} exceeds the model's max_position_embeddings {self.model.max_position_embeddings}"
            )
        if self.schedule.warmup_tokens >= self.train_tokens:
            raise ConfigError(
                f"warmup_tokens {self.schedule.warmup_tokens:,} leave nothing of {self.train_tokens:,} train_tokens"
            )
        tensor = self.parallelism.tensor_model_parallel_size
        for what, value in (
            ("query groups", self.model.num_query_groups),
            ("vocabulary entries", self.model.vocab_size),
        ):
            if value % tensor:
                raise ConfigError(f"{value} {what} do not divide by tensor_model_parallel_size {tensor}")
        if self.model.num_layers % self.parallelism.pipeline_model_parallel_size:
            raise ConfigError(
                f"{self.model.num_layers} layers do not divide by pipeline_model_parallel_size "
                f"{self.parallelism.pipeline_model_parallel_size}"
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
        return max(1, self.save_interval_tokens // self.tokens_per_step)

    def num_microbatches(self, world_size: int) -> int:
        """Forward passes per rank and step. Raises `ConfigError` when the batch does not divide."""
        data_parallel = self.parallelism.data_parallel_size(world_size)
        per_pass = self.micro_batch_size * data_parallel
        if self.global_batch_size % per_pass:
            raise ConfigError(
                f"global_batch_size {self.global_batch_size} does not divide by micro_batch_size {self.micro_batch_size} x "
                f"{data_parallel} data-parallel ranks = {per_pass}"
            )
        return self.global_batch_size // per_pass

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
class TrainingJob:
    """A recipe on this machine's files: what `python -m megatron_octo.training.run` gets."""

    recipe: MidTraining
    #: Directory of tokenised corpora, one stage directory per corpus name of the blend.
    shards: Path
    #: The parent's training directory for a branch, a converted checkpoint directory for `init_from`, else None.
    init_checkpoint: Path | None = None
