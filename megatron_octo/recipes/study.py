"""What a study is: one stable run, its decay branches, RL on each of them, evaluation and a report, as one config.

The stages' own configs say how; a study says which and in what order. `launch/study.py` turns it into jobs.
"""

from dataclasses import dataclass
from pathlib import Path

from megatron_octo.conversion.config import ExportDtype
from megatron_octo.curation.config import TinyWorld
from megatron_octo.errors import ConfigError
from megatron_octo.rl.config import ReinforcementLearning
from megatron_octo.training.config import MidTraining


@dataclass(frozen=True, kw_only=True)
class UserCorpus:
    """Text of the user's own in the place of one corpus of the world."""

    #: The corpus it replaces.
    corpus: str
    files: tuple[Path, ...]
    text_field: str = "text"


@dataclass(frozen=True, kw_only=True)
class Study:
    """The whole recipe on one machine."""

    name: str
    world: TinyWorld
    #: Entries of the byte-level BPE trained on the world's text.
    vocab_size: int
    #: Documents per corpus the tokenizer learns from.
    tokenizer_documents: int
    #: What the tokenizer keeps whole; see `TokenizerTraining`.
    split_pattern: str | None = None
    stable: MidTraining
    branches: tuple[MidTraining, ...]
    #: One per model, the stable run (the control) first.
    rl: tuple[ReinforcementLearning, ...]
    #: Ranks of the training stages.
    world_size: int
    export_dtype: ExportDtype
    #: Sequences generated at a time in evaluation.
    eval_batch_size: int
    #: Most tokens of a response in evaluation.
    eval_max_new_tokens: int
    #: How often the RL stage is repeated, with seeds counting up from the recipe's.
    seeds: int = 1
    #: Free disk the study asks for before it starts, bytes.
    needs_bytes: int
    user_corpus: UserCorpus | None = None

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ConfigError(f"seeds is {self.seeds}; the RL stage runs at least once")
        names = {phase.name for phase in self.phases}
        for rl in self.rl:
            if rl.init_from not in names:
                raise ConfigError(
                    f"RL stage {rl.name} starts from {rl.init_from}, which the study does not train: {', '.join(sorted(names))}"
                )
        self._check_phases()
        corpora = {size.corpus for size in self.world.corpora}
        for phase in self.phases:
            missing = {share.corpus for share in phase.blend.shares} - corpora
            if missing:
                raise ConfigError(f"{phase.name} reads {', '.join(sorted(missing))}, which the world does not write")

    def _check_phases(self) -> None:
        """What would otherwise fail after minutes of work."""
        if self.stable.init_from is not None or self.stable.branch_point is not None:
            raise ConfigError(f"a study's stable run starts from random weights; {self.stable.name} does not")
        if self.vocab_size > self.stable.model.vocab_size:
            raise ConfigError(f"vocab_size {self.vocab_size} exceeds the model's {self.stable.model.vocab_size}")
        if self.world.test_problems < 1 or self.world.rl_problems < 1:
            raise ConfigError("a study needs at least one test problem and one RL problem")
        for phase in self.phases:
            phase.num_microbatches(self.world_size)
        for branch in self.branches:
            self._check_branch(branch)

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

    @property
    def phases(self) -> tuple[MidTraining, ...]:
        return (self.stable, *self.branches)
