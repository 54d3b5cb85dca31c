"""What an evaluation is. No torch here."""

from dataclasses import dataclass
from pathlib import Path

from megatron_octo.errors import ConfigError
from megatron_octo.templates import STOP_STRINGS, Template, check_stop_strings, check_template


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One model on one set of questions, zero-shot, greedy unless a temperature is given."""

    #: Hugging Face directory.
    model: Path
    #: JSONL of {"question", "answer"}; further keys are carried into the samples.
    dataset: Path
    template: Template
    #: A text with `{question}` in it, for `Template.FILE`.
    template_file: Path | None = None
    #: A response ends before these, and they are cut off.
    stop_strings: tuple[str, ...] = STOP_STRINGS
    max_new_tokens: int
    batch_size: int
    samples_per_question: int = 1
    #: 0 is greedy decoding.
    temperature: float = 0.0
    seed: int = 1234

    def __post_init__(self) -> None:
        check_template(self.template, self.template_file)
        check_stop_strings(self.stop_strings)
        if self.samples_per_question > 1 and self.temperature == 0:
            raise ConfigError(
                f"samples_per_question is {self.samples_per_question} at temperature 0: greedy samples are all the same; "
                "give a temperature or take one sample"
            )
