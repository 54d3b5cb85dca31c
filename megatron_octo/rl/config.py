"""What an RL stage is, whichever engine runs it. Numbers and their sources: the paper, §2, and its released scripts."""

import enum
from dataclasses import dataclass
from pathlib import Path

from megatron_octo.errors import ConfigError
from megatron_octo.templates import Template


class Engine(enum.Enum):
    #: Hugging Face TRL, embedded: one machine, CPU or GPU.
    TRL = "trl"
    #: OpenRLHF on Ray: the cluster.
    OPENRLHF = "openrlhf"


class Loss(enum.Enum):
    """How the clipped policy gradient is averaged; the values are TRL's names."""

    #: Every token of a mini-batch counts the same, as in DAPO; verl of early 2025 did so too (`masked_mean`), whether the
    #: paper's runs did is UNCONFIRMED.
    TOKEN_MEAN = "dapo"  # noqa: S105 - no password
    #: Every response counts the same, its tokens averaged first: GRPO as first published (arXiv 2402.03300).
    SEQUENCE_MEAN = "grpo"


@dataclass(frozen=True, kw_only=True)
class LengthStage:
    """From optimizer-independent step `from_step` on, responses may have `max_response_tokens` tokens."""

    from_step: int
    max_response_tokens: int


@dataclass(frozen=True, kw_only=True)
class ReinforcementLearning:
    """GRPO with verifiable rewards on a base model.

    A *step* is one batch of prompts: `prompts_per_step` x `samples_per_prompt` rollouts, then
    `prompts_per_step / mini_batch_prompts` optimizer updates.
    """

    name: str
    #: Recipe name of the model it starts from; the process gets its Hugging Face directory.
    init_from: str
    engine: Engine
    #: Hub name of the prompt set; the process gets a local file.
    prompts: str
    template: Template
    prompts_per_step: int
    samples_per_prompt: int
    mini_batch_prompts: int
    train_steps: int
    learning_rate: float
    kl_coef: float
    temperature: float
    top_p: float
    max_prompt_tokens: int
    length_schedule: tuple[LengthStage, ...]
    clip_epsilon: float
    max_grad_norm: float
    #: Steps between evaluations on `eval_sets` (greedy, one sample); step 0 is always evaluated.
    eval_interval: int
    eval_sets: tuple[str, ...]
    loss: Loss = Loss.TOKEN_MEAN
    #: Steps between checkpoints to resume from; our choice, the released scripts save every 40.
    save_interval: int = 10
    seed: int = 1234

    def __post_init__(self) -> None:
        for what in (
            "train_steps",
            "prompts_per_step",
            "mini_batch_prompts",
            "eval_interval",
            "temperature",
            "learning_rate",
        ):
            if getattr(self, what) <= 0:
                raise ConfigError(f"{what} is {getattr(self, what)}; it must be above 0")
        if self.prompts_per_step % self.mini_batch_prompts:
            raise ConfigError(
                f"prompts_per_step {self.prompts_per_step} does not divide by mini_batch_prompts {self.mini_batch_prompts}; "
                "every rollout batch is used in whole optimizer updates"
            )
        if self.samples_per_prompt < 2:
            raise ConfigError(f"samples_per_prompt is {self.samples_per_prompt}; a group needs at least 2 to compare")
        starts = [stage.from_step for stage in self.length_schedule]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise ConfigError(f"length_schedule starts at steps {starts}; the first must be 0 and they must rise")

    @property
    def updates_per_step(self) -> int:
        """Optimizer updates from one batch of prompts."""
        return self.prompts_per_step // self.mini_batch_prompts

    def max_response_tokens(self, step: int) -> int:
        """The cap on response tokens at a step, counted from 0 (paper §2: 2048, then 4096, then 8192)."""
        return [stage.max_response_tokens for stage in self.length_schedule if stage.from_step <= step][-1]


@dataclass(frozen=True, kw_only=True)
class RLJob:
    """A recipe on this machine's files: what `python -m megatron_octo.rl.run` gets."""

    recipe: ReinforcementLearning
    #: Hugging Face directory of the starting model.
    model: Path
    #: JSONL of {"question", "answer"}.
    prompts: Path
    #: JSONL of {"question", "answer"} by name of the recipe's `eval_sets`.
    eval_sets: dict[str, Path]
    #: Responses per forward and backward pass, per generation batch. They bound memory; None takes all at once.
    micro_batch_responses: int | None = None
    generation_batch_responses: int | None = None

    def __post_init__(self) -> None:
        if set(self.eval_sets) != set(self.recipe.eval_sets):
            raise ConfigError(
                f"{self.recipe.name} is evaluated on {', '.join(self.recipe.eval_sets) or 'nothing'}, files are given for "
                f"{', '.join(self.eval_sets) or 'nothing'}; give one file per evaluation set"
            )
        mini_batch = self.recipe.mini_batch_prompts * self.recipe.samples_per_prompt
        if self.micro_batch_responses is not None and mini_batch % self.micro_batch_responses:
            raise ConfigError(
                f"micro_batch_responses {self.micro_batch_responses} does not divide the {mini_batch} responses of a mini-batch"
            )


def require_local_engine(recipe: ReinforcementLearning) -> None:
    """Raises `ConfigError` for an engine that does not run on one machine."""
    if recipe.engine is not Engine.TRL:
        raise ConfigError(
            f"{recipe.name} is for the {recipe.engine.value} engine, which is not here yet; on one machine set engine=trl"
        )
