"""What a conversion is: which checkpoint becomes which, and with what proof. No torch here."""

import enum
from dataclasses import dataclass, field
from pathlib import Path

from megatron_octo.config import AT_RUN_TIME, require_positive
from megatron_octo.errors import ConfigError


class Direction(enum.Enum):
    TO_HF = "to-hf"
    FROM_HF = "from-hf"


class ExportDtype(enum.Enum):
    """Number format of the weights that are written."""

    #: As the source stores them: nothing is rounded.
    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A Megatron `torch_dist` checkpoint to a Hugging Face directory, or back.

    Where the source lies is no part of what is made, since its content is known by hashes; and proof can be asked for later.
    """

    direction: Direction
    #: to-hf: a training or import stage, one of its checkpoints, or a Megatron-LM checkpoint directory.
    #: from-hf: a directory with config.json and safetensors or pytorch_model*.bin files.
    source: Path = field(metadata=AT_RUN_TIME)
    #: to-hf: Hugging Face directory whose config.json, generation_config.json and tokenizer files to carry over; default: that
    #: of the imported model the run started from.
    reference: Path | None = field(default=None, metadata=AT_RUN_TIME)
    #: to-hf: directory of the tokenizer files to carry over, before those of the reference.
    tokenizer: Path | None = field(default=None, metadata=AT_RUN_TIME)
    dtype: ExportDtype = ExportDtype.AUTO
    #: Read both checkpoints again and compare every tensor through the inverse plan.
    check: bool = field(default=False, metadata=AT_RUN_TIME)
    #: Run both models on fixed token ids (CPU, fp32) and fail when their logits differ by more than `logit_tolerance`.
    check_logits: bool = field(default=False, metadata=AT_RUN_TIME)
    #: fp32 sums in another order; guess, the tiny models of all families differ by 0.0 (docs/measurements.md).
    logit_tolerance: float = field(default=1e-5, metadata=AT_RUN_TIME)
    #: Largest file, bytes; a tensor is never cut. Files are what tasks share and what a resumed conversion keeps.
    max_shard_bytes: int = 5_000_000_000
    #: Threads that copy.
    workers: int = field(default=4, metadata=AT_RUN_TIME)
    #: Machines (or array tasks) that share the conversion, and which of them this is, from 0.
    tasks: int = field(default=1, metadata=AT_RUN_TIME)
    task: int = field(default=0, metadata=AT_RUN_TIME)

    def __post_init__(self) -> None:
        require_positive(self, "max_shard_bytes", "workers", "tasks")
        if not 0 <= self.task < self.tasks:
            raise ConfigError(f"task is {self.task} of {self.tasks}; tasks are numbered from 0 to {self.tasks - 1}")
        if self.direction is Direction.FROM_HF and (self.reference or self.tokenizer):
            raise ConfigError("from-hf carries the files of its source over; reference and tokenizer are for to-hf")
