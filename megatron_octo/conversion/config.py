"""What a conversion is: which checkpoint becomes which, and with what proof. No torch here."""

import enum
from dataclasses import dataclass
from pathlib import Path


class Direction(enum.Enum):
    TO_HF = "to-hf"
    FROM_HF = "from-hf"


class ExportDtype(enum.Enum):
    """Number format of the exported weights."""

    FP32 = "fp32"
    BF16 = "bf16"


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A Megatron `torch_dist` checkpoint to a Hugging Face directory, or back."""

    direction: Direction
    #: to-hf: a training stage directory or one of its checkpoints. from-hf: a directory with config.json and safetensors.
    source: Path
    #: to-hf: directory of the tokenizer files to carry over.
    tokenizer: Path | None = None
    dtype: ExportDtype = ExportDtype.BF16
    #: Run both models on fixed token ids (CPU, fp32) and fail when their logits differ by more than `logit_tolerance`.
    check_logits: bool = False
    #: fp32 sums in another order; guess, the four tiny models differ by 0.0 (docs/measurements.md).
    logit_tolerance: float = 1e-5
    #: Largest safetensors file, bytes.
    max_shard_bytes: int = 5_000_000_000
