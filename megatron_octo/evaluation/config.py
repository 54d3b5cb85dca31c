"""What an evaluation is. No torch here."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from megatron_octo.config import AT_RUN_TIME, require_positive
from megatron_octo.errors import ConfigError
from megatron_octo.servers import Server
from megatron_octo.templates import STOP_STRINGS, Template, check_stop_strings, check_template

#: Below this a result is said with a warning: at 100 questions the interval spans almost twenty points.
FEW_QUESTIONS = 100


class Engine(enum.Enum):
    """Who answers."""

    #: Hugging Face transformers on this machine, CPU or one GPU.
    TRANSFORMERS = "transformers"
    #: vLLM's offline engine on this machine.
    VLLM = "vllm"
    #: A server that speaks OpenAI's completions, such as vLLM's, SGLang's or llama.cpp's.
    SERVER = "server"


class ShotSource(enum.Enum):
    """Where few-shot examples come from."""

    #: The benchmark's own training split, or that of a related benchmark (benchmarks.py says which).
    TRAIN = "train"
    #: The published prompts of an installed lm-evaluation-harness.
    LM_EVAL = "lm-eval"


class Export(enum.Enum):
    """Harnesses that our prompts are written for."""

    LM_EVAL = "lm-eval"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A benchmark and where its questions are."""

    #: One of benchmarks.py; any other name stands for a file of {"question", "answer"}.
    name: str
    #: JSONL or Parquet; None takes the benchmark from the Hugging Face hub.
    file: Path | None = None
    #: Rows to take few-shot examples from, in the benchmark's own columns or as {"question", "solution", "answer"};
    #: None takes the training split from the hub.
    shots_file: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One model on one or more benchmarks, greedy unless a temperature is given."""

    #: Hugging Face directory; None for a server's model.
    model: Path | None = None
    server: Server | None = None
    engine: Engine = Engine.TRANSFORMERS
    benchmarks: tuple[Source, ...]
    #: Zero-shot with this template, as after RL; None is each benchmark's own few-shot prompt, as for base models.
    template: Template | None
    #: A text with `{question}` in it, for `Template.FILE`.
    template_file: Path | None = None
    #: Few-shot examples; None for as many as each benchmark says.
    num_shots: int | None = None
    shots: ShotSource = ShotSource.TRAIN
    #: Zero-shot: a response ends before these, and they are cut off. Few-shot prompts have their own.
    stop_strings: tuple[str, ...] = STOP_STRINGS
    #: Whether an answer counts that stands in no box; None: with few-shot prompts, which do not ask for one.
    lenient: bool | None = None
    max_new_tokens: int
    #: Responses at a time in `Engine.TRANSFORMERS`.
    batch_size: int = 32
    samples_per_question: int = 1
    #: 0 is greedy decoding.
    temperature: float = 0.0
    top_p: float = 1.0
    #: The first so many questions of each benchmark, for a try; None takes all.
    limit: int | None = None
    seed: int = 1234

    def __post_init__(self) -> None:
        check_stop_strings(self.stop_strings)
        self._check_prompts()
        self._check_engine()
        _check_names(self.benchmarks)
        limits = () if self.limit is None else ("limit",)
        require_positive(self, "max_new_tokens", "batch_size", "samples_per_question", *limits)
        self._check_sampling()

    def _check_sampling(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"temperature is {self.temperature:g} and top_p {self.top_p:g}; temperature must be 0 (greedy) or more, top_p above 0 "
                "and at most 1 (all tokens)"
            )
        if self.samples_per_question > 1 and self.temperature == 0:
            raise ConfigError(
                f"samples_per_question is {self.samples_per_question} at temperature 0: greedy samples are all the same; "
                "give a temperature or take one sample"
            )

    def _check_prompts(self) -> None:
        if self.num_shots is not None and self.num_shots < 0:
            raise ConfigError(f"num_shots is {self.num_shots}; it must be at least 0")
        if self.template is not None:
            check_template(self.template, self.template_file)
            if self.num_shots:
                raise ConfigError(
                    f"num_shots={self.num_shots} with template={self.template.value}: a template is zero-shot"
                )
        elif self.template_file is not None:
            raise ConfigError(f"template_file={self.template_file} without template=file")

    def _check_engine(self) -> None:
        asks_server = self.engine is Engine.SERVER
        if asks_server != (self.server is not None):
            given = "no server" if self.server is None else f"the server {self.server.url}"
            raise ConfigError(
                f"engine={self.engine.value} with {given}; name a server with engine=server, and only with it"
            )
        if asks_server and self.model is not None:
            raise ConfigError(
                f"model={self.model} with a server, which has its models by name; leave the directory out"
            )
        if not asks_server and self.model is None:
            raise ConfigError(f"engine={self.engine.value} without a model; name the directory of a Hugging Face model")

    @property
    def inputs(self) -> dict[str, Path]:
        """What lies here; what comes from the hub is known by its name."""
        given = {"model": self.model, "template_file": self.template_file}
        for source in self.benchmarks:
            given |= {f"benchmark_{source.name}": source.file, f"shots_{source.name}": source.shots_file}
        return {name: path for name, path in given.items() if path is not None}

    @property
    def accepts_unboxed(self) -> bool:
        return self.template is None if self.lenient is None else self.lenient


def _check_names(benchmarks: Sequence[Source]) -> None:
    names = [source.name for source in benchmarks]
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"benchmarks need different names, not [{', '.join(names)}], and there must be one at least")


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """How much of each benchmark stands in the documents a model was trained on."""

    benchmarks: tuple[Source, ...]
    #: Shards of each corpus below it, as `tokenize` leaves them.
    shards: Path
    #: The tokenizer they were made with.
    tokenizer: Path
    #: Words that must stand in a row in both [GPT-3, arXiv 2005.14165, appendix C].
    ngram: int = 13
    #: Documents looked at per corpus, evenly spread; None looks at all.
    max_documents: int | None = None
    workers: int = field(default=1, metadata=AT_RUN_TIME)

    def __post_init__(self) -> None:
        require_positive(self, "ngram", "workers", *(() if self.max_documents is None else ("max_documents",)))
        _check_names(self.benchmarks)
