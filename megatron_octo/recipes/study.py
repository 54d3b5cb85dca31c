"""What a study is: one stable run, its decay branches, RL on each of them, evaluation and a report, as one config.

`Study` is what every study has; what it stands on is one of two things: a generated world with a tokenizer of its own
(`WorldStudy`), or a published model and the user's copies of published corpora (`ModelStudy`). The stages' own configs say how; a
study says which and in what order. `launch/study/graph.py` turns it into jobs.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from megatron_octo.config import require_positive
from megatron_octo.conversion.config import ExportDtype
from megatron_octo.curation.config import TinyWorld
from megatron_octo.errors import ConfigError
from megatron_octo.evaluation.config import Engine
from megatron_octo.rl.config import ReinforcementLearning
from megatron_octo.tokenization.config import Tokenization
from megatron_octo.training.config import MidTraining

#: The model that a `ModelStudy` stands on, among those it trained.
PUBLISHED = "base"


@dataclass(frozen=True, kw_only=True)
class UserCorpus:
    """Text of the user's own in the place of one corpus of the world."""

    #: The corpus it replaces.
    corpus: str
    files: tuple[Path, ...]
    text_field: str = "text"


@dataclass(frozen=True, kw_only=True)
class Study:
    """The whole recipe. What every study has."""

    name: str
    stable: MidTraining
    branches: tuple[MidTraining, ...]
    #: One per model; the others are compared with the first.
    rl: tuple[ReinforcementLearning, ...]
    #: Ranks of the training stages where the place does not decide.
    world_size: int
    export_dtype: ExportDtype
    #: Sequences generated at a time in evaluation by transformers.
    eval_batch_size: int
    #: Most tokens of a response in evaluation; a `ModelStudy` gives models after RL as many as RL did.
    eval_max_new_tokens: int
    #: How often the RL stage is repeated, with seeds counting up from the recipe's.
    seeds: int = 1

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ConfigError(f"seeds is {self.seeds}; the RL stage runs at least once")
        names = {phase.name for phase in self.phases}
        for rl in self.rl:
            if self.published(rl) is None and rl.init_from not in names:
                raise ConfigError(
                    f"RL stage {rl.name} starts from {rl.init_from}, which the study does not train: {', '.join(sorted(names))}"
                )
        self._check_directories()
        for phase in self.phases:
            phase.num_microbatches(self.world_size)
        for branch in self.branches:
            self._check_branch(branch)

    def _check_directories(self) -> None:
        for kind, found in (
            ("phases", [phase.name for phase in self.phases]),
            ("RL stages", [self.model_name(rl) for rl in self.rl]),
        ):
            name, count = Counter(map(directory_name, found)).most_common(1)[0] if found else ("", 0)
            if count > 1:
                raise ConfigError(f"{count} {kind} would share the directory '{name}'; give them different names")

    def _check_branch(self, branch: MidTraining) -> None:
        for what in ("model", "seq_length", "global_batch_size"):
            if getattr(branch, what) != getattr(self.stable, what):
                raise ConfigError(
                    f"{branch.name} and {self.stable.name} differ in {what}; a branch continues its parent, so change both "
                    "in a study recipe of your own (recipes/tiny.py shows one)"
                )
        if branch.branch_point is None or branch.branch_point.at_tokens != self.stable.trained_tokens:
            raise ConfigError(
                f"{branch.name} must leave {self.stable.name} at its end, {self.stable.trained_tokens:,} tokens; change both in a "
                "study recipe of your own (recipes/tiny.py shows one)"
            )

    def published(self, rl: ReinforcementLearning) -> Path | None:
        """Where the model lies that an RL stage starts from, if none of the phases trained it."""
        return None

    def model_name(self, rl: ReinforcementLearning) -> str:
        """What the model that an RL stage starts from is called in directories and in the report."""
        return directory_name(rl.init_from) if self.published(rl) is None else PUBLISHED

    @property
    def phases(self) -> tuple[MidTraining, ...]:
        return (self.stable, *self.branches)

    @property
    def corpora_read(self) -> list[str]:
        """Names of all corpora of all phases."""
        return list(dict.fromkeys(corpus for phase in self.phases for corpus in phase.corpora))


@dataclass(frozen=True, kw_only=True)
class WorldStudy(Study):
    """A study of a model from random weights on a generated world."""

    world: TinyWorld
    #: Entries of the byte-level BPE trained on the world's text.
    vocab_size: int
    #: Documents per corpus the tokenizer learns from.
    tokenizer_documents: int
    #: What the tokenizer keeps whole; see `TokenizerTraining`.
    split_pattern: str | None = None
    #: Free disk the study asks for before it starts, bytes.
    needs_bytes: int
    user_corpus: UserCorpus | None = None

    def __post_init__(self) -> None:
        """Says what would otherwise fail after minutes of work."""
        super().__post_init__()
        if self.stable.init_from is not None or self.stable.branch_point is not None:
            raise ConfigError(f"this study's stable run starts from random weights; {self.stable.name} does not")
        if self.vocab_size > self.stable.model.vocab_size:
            raise ConfigError(f"vocab_size {self.vocab_size} exceeds the model's {self.stable.model.vocab_size}")
        if self.world.test_problems < 1 or self.world.rl_problems < 1:
            raise ConfigError("a study needs at least one test problem and one RL problem")
        corpora = {size.corpus for size in self.world.corpora}
        for phase in self.phases:
            if missing := set(phase.corpora) - corpora:
                raise ConfigError(f"{phase.name} reads {', '.join(sorted(missing))}, which the world does not write")


@dataclass(frozen=True, kw_only=True)
class ModelStudy(Study):
    """A study of a published model that goes on with published corpora.

    The first five fields are what only the user knows: `corpora=/data/corpora base=/models/Llama-3.2-3B` on the command line.
    """

    #: A directory of text per corpus, under the names of the blends; `texts` says which.
    corpora: Path = Path("corpora")
    #: Hugging Face directory of the model it starts from, with its tokenizer.
    base: Path = Path("base")
    #: JSONL of {"question", "answer"} that RL trains on.
    prompts: Path = Path("prompts.jsonl")
    #: Directory with NAME.jsonl of {"question", "answer"} for each set that RL evaluates on.
    eval_sets: Path = Path("eval_sets")
    #: Directory with the benchmarks' files (docs/evaluation.md); None takes them from the Hugging Face hub.
    benchmarks: Path | None = None

    #: How each corpus becomes shards. Where text and tokenizer are comes from the fields above, tasks and workers from those below.
    texts: tuple[Tokenization, ...]
    #: Array tasks that share a corpus, and processes of each.
    tokenize_tasks: int = 1
    tokenize_workers: int = 1
    #: What base models are asked, few-shot; what is looked for in the corpora.
    base_suite: str = "math13"
    #: What models are asked after RL, zero-shot with RL's template.
    rl_suite: str = "rl4"
    eval_engine: Engine = Engine.TRANSFORMERS
    #: Documents per corpus in which benchmarks are looked for; None looks at all.
    overlap_documents: int | None = None
    overlap_workers: int = 1

    def __post_init__(self) -> None:
        if self.stable.init_from is None:
            raise ConfigError(
                f"this study goes on from a published model; {self.stable.name} starts from random weights"
            )
        super().__post_init__()
        require_positive(self, "tokenize_tasks", "tokenize_workers", "overlap_workers")
        if self.eval_engine is Engine.SERVER:
            raise ConfigError("eval_engine=server needs a server per model; take vllm or transformers")
        texts = [text.corpus for text in self.texts]
        if missing := [corpus for corpus in self.corpora_read if corpus not in texts]:
            raise ConfigError(f"the phases read {', '.join(missing)}, for which the study's `texts` name no text")

    def published(self, rl: ReinforcementLearning) -> Path | None:
        """The base itself: RL without mid-training is what the branches are compared with."""
        return self.base if rl.init_from == self.stable.init_from else None


def directory_name(recipe: str) -> str:
    """Where a phase's files lie below the study's directory: `llama32_3b.decay_long -> decay_long`."""
    return recipe.rpartition(".")[2]
