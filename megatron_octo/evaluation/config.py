"""What an evaluation is. No torch here."""

from dataclasses import dataclass
from pathlib import Path

from megatron_octo.rl.config import Template


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One model on one set of questions, zero-shot, greedy unless a temperature is given."""

    #: Hugging Face directory.
    model: Path
    #: JSONL of {"question", "answer"}; further keys are carried into the samples.
    dataset: Path
    template: Template
    max_new_tokens: int
    batch_size: int
    samples_per_question: int = 1
    #: 0 is greedy decoding.
    temperature: float = 0.0
    seed: int = 1234
