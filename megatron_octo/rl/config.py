"""What an RL stage is, whichever engine runs it. Numbers and their sources: the paper, §2, and its released scripts."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_octo.config import AT_RUN_TIME, require_positive
from megatron_octo.errors import ConfigError
from megatron_octo.rl.placement import Needed, Placement
from megatron_octo.templates import STOP_STRINGS, Template, check_stop_strings, check_template


class Engine(enum.Enum):
    #: Hugging Face TRL, embedded: one machine, CPU or GPU.
    TRL = "trl"
    #: OpenRLHF on Ray: the cluster.
    OPENRLHF = "openrlhf"


class Algorithm(enum.Enum):
    """How rewards become advantages."""

    #: Minus the group's mean, divided by its standard deviation (arXiv 2402.03300).
    GRPO = "grpo"
    #: Minus the group's mean only (arXiv 2503.20783).
    DR_GRPO = "dr_grpo"
    #: Minus the mean of the others of the group (arXiv 2402.14740).
    RLOO = "rloo"
    #: Normalised over the whole batch, no group (arXiv 2501.03262).
    REINFORCE_PLUS_PLUS = "reinforce++"
    #: Minus the group's mean, then normalised over the whole batch (the same paper).
    REINFORCE_PLUS_PLUS_BASELINE = "reinforce++-baseline"
    #: Generalised advantage estimation with a critic (arXiv 1707.06347).
    PPO = "ppo"

    @property
    def compares_samples(self) -> bool:
        """Whether the samples of one prompt are compared with one another."""
        return self not in (Algorithm.PPO, Algorithm.REINFORCE_PLUS_PLUS)


class Loss(enum.Enum):
    """How the clipped policy gradient is averaged."""

    #: Every token of a mini-batch counts the same, as in DAPO; verl of early 2025 did so too (`masked_mean`), whether the
    #: paper's runs did is UNCONFIRMED.
    TOKEN_MEAN = "token-mean"  # noqa: S105 - no password
    #: Every response counts the same, its tokens averaged first: GRPO as first published (arXiv 2402.03300).
    SEQUENCE_MEAN = "sequence-mean"
    #: Summed over tokens and divided by the response cap, as in Dr. GRPO (arXiv 2503.20783); TRL only.
    FIXED_LENGTH = "fixed-length"


class KLForm(enum.Enum):
    """Where the distance to the starting model enters."""

    #: A term of the loss, estimator k3 (verl's `low_var_kl`) [RLCODE].
    LOSS = "loss"
    #: Taken off the reward token by token, estimator k1: PPO as first used on language models. OpenRLHF only.
    REWARD = "reward"


class MismatchCorrection(enum.Enum):
    """What is done about vLLM's probabilities differing from the trainer's. OpenRLHF only."""

    OFF = "off"
    #: Truncated importance sampling: each token's ratio, clipped.
    TRUNCATED = "truncated"
    #: Tokens whose ratio is out of bounds do not train (IcePop).
    MASKED = "masked"


class RewardForm(enum.Enum):
    r"""How a verdict on the last `\boxed{}` becomes a number; names of the released variants in brackets [RLCODE]."""

    #: Right +1, everything else -1.
    SIGN = "sign"
    #: Right +1, wrong -0.5; -1 for no box, several boxes or repetition [v2.wformat].
    FORMAT = "format"
    #: Right +1, wrong -1; -2 for repetition [v3.repeatpenalty].
    REPETITION = "repetition"
    #: As `REPETITION`, and -2 for two boxes or more [v4].
    ONE_BOX = "one-box"


class Extraction(enum.Enum):
    """Where the answer is looked for."""

    #: The last closed `\boxed{}`; none is wrong.
    STRICT = "strict"
    #: Where no box is, what follows the last "answer is", or the last number.
    LENIENT = "lenient"


@dataclass(frozen=True, kw_only=True)
class Reward:
    """What a response is worth. Accuracy is reported beside it whatever its shape."""

    form: RewardForm = RewardForm.SIGN
    extraction: Extraction = Extraction.STRICT
    #: The user's own, `path/to/file.py:function` or `package.module:function`, instead of `form`; docs/rl.md has its signature.
    function: str | None = None
    #: Responses longer than the cap less this many tokens lose up to `overlong_penalty`, linearly (DAPO, arXiv 2503.14476, eq. 13).
    overlong_buffer_tokens: int | None = None
    overlong_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.function is not None and not all(self.function.rpartition(":")[::2]):
            raise ConfigError(
                f"reward.function is '{self.function}'; write path/to/file.py:function or package.module:function"
            )
        if self.overlong_buffer_tokens is not None and self.overlong_buffer_tokens < 1:
            raise ConfigError(
                f"overlong_buffer_tokens is {self.overlong_buffer_tokens}; it must be at least 1, or none for off"
            )
        if self.overlong_penalty < 0:
            raise ConfigError(
                f"overlong_penalty is {self.overlong_penalty}; it is taken off, so it may not be negative"
            )


@dataclass(frozen=True, kw_only=True)
class Critic:
    """The value model of PPO, as large as the policy. The numbers are OpenRLHF's defaults."""

    learning_rate: float = 9e-6
    value_clip: float = 0.5
    gamma: float = 1.0
    gae_lambda: float = 1.0
    #: Steps in which only the critic learns.
    warmup_steps: int = 0


@dataclass(frozen=True, kw_only=True)
class Alarms:
    """When a run is going wrong; None switches one off. What the limits rest on: docs/measurements.md."""

    #: Share of responses that reach the cap; a guess.
    truncated_share: float | None = 0.5
    #: Mean response length against the shortest before, where accuracy did not rise with it.
    length_growth: float | None = 4.0
    #: Nats per token; a guess.
    entropy_floor: float | None = 0.02
    #: Share of the best accuracy so far that is lost, beyond noise.
    accuracy_drop: float | None = 0.08
    #: Steps over which training rows are averaged.
    window_steps: int = 10

    def __post_init__(self) -> None:
        """Raises `ConfigError` for a limit that nothing could stay within."""
        require_positive(self, "window_steps")
        for name, least in (("truncated_share", 0), ("length_growth", 1), ("entropy_floor", 0), ("accuracy_drop", 0)):
            limit = getattr(self, name)
            if limit is not None and limit <= least:
                raise ConfigError(f"alarms.{name} is {limit}; it must be above {least}, or none for off")


@dataclass(frozen=True, kw_only=True)
class LengthStage:
    """From step `from_step` on, responses may have `max_response_tokens` tokens; a step is a batch of prompts."""

    from_step: int
    max_response_tokens: int


@dataclass(frozen=True, kw_only=True)
class ReinforcementLearning:
    """Reinforcement learning with verifiable rewards on a base model.

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
    #: A text with `{question}` in it, for `Template.FILE`.
    template_file: Path | None = None
    #: A response ends before these, and they are cut off.
    stop_strings: tuple[str, ...] = STOP_STRINGS
    algorithm: Algorithm = Algorithm.GRPO
    reward: Reward = Reward()
    prompts_per_step: int
    samples_per_prompt: int
    mini_batch_prompts: int
    train_steps: int
    learning_rate: float
    kl_coef: float
    kl_form: KLForm = KLForm.LOSS
    temperature: float
    top_p: float
    max_prompt_tokens: int
    length_schedule: tuple[LengthStage, ...]
    clip_epsilon: float
    #: Upper clip where it differs from the lower: DAPO's clip-higher, 0.28 there (arXiv 2503.14476).
    clip_epsilon_high: float | None = None
    #: Prompts whose samples are all right or all wrong are replaced by new ones (DAPO). `train_steps` then counts batches of
    #: prompts drawn, and there are fewer optimizer steps. OpenRLHF only.
    dynamic_sampling: bool = False
    max_grad_norm: float
    #: Steps between evaluations on `eval_sets` (greedy, one sample, at the longest cap).
    eval_interval: int
    eval_sets: tuple[str, ...]
    loss: Loss = Loss.TOKEN_MEAN
    critic: Critic | None = None
    mismatch_correction: MismatchCorrection = MismatchCorrection.OFF
    #: Where it runs; None for TRL, which takes the machine it is on.
    placement: Placement | None = None
    alarms: Alarms = field(default_factory=Alarms, metadata=AT_RUN_TIME)
    #: Steps between checkpoints to resume from; our choice, the released scripts save every 40.
    save_interval: int = 10
    #: Newest checkpoints that stay: an alarm comes after the step to restart from. Our choice.
    keep_checkpoints: int = 3
    seed: int = 1234

    def __post_init__(self) -> None:
        """Raises `ConfigError` for numbers that do not divide and for combinations that mean nothing."""
        require_positive(
            self, "train_steps", "prompts_per_step", "mini_batch_prompts", "eval_interval", "save_interval", "keep_checkpoints",
            "max_prompt_tokens",
        )  # fmt: skip
        for what in ("temperature", "learning_rate"):
            if getattr(self, what) <= 0:
                raise ConfigError(f"{what} is {getattr(self, what)}; it must be above 0")
        check_template(self.template, self.template_file)
        check_stop_strings(self.stop_strings)
        self._check_batch()
        self._check_schedule()
        self._check_algorithm()
        self._check_engine()

    def _check_batch(self) -> None:
        if self.prompts_per_step % self.mini_batch_prompts:
            raise ConfigError(
                f"prompts_per_step {self.prompts_per_step} does not divide by mini_batch_prompts {self.mini_batch_prompts}; "
                "every rollout batch is used in whole optimizer updates"
            )
        if self.samples_per_prompt < 2 and (self.algorithm.compares_samples or self.dynamic_sampling):
            raise ConfigError(f"samples_per_prompt is {self.samples_per_prompt}; a group needs at least 2 to compare")
        require_positive(self, "samples_per_prompt")

    def _check_schedule(self) -> None:
        starts = [stage.from_step for stage in self.length_schedule]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise ConfigError(f"length_schedule starts at steps {starts}; the first must be 0 and they must rise")
        buffer = self.reward.overlong_buffer_tokens
        shortest = min(stage.max_response_tokens for stage in self.length_schedule)
        if shortest < 1 or (buffer is not None and buffer > shortest):
            raise ConfigError(
                f"the shortest response cap is {shortest} tokens; it must be above 0 and hold overlong_buffer_tokens ({buffer})"
            )

    def _check_algorithm(self) -> None:
        if (self.algorithm is Algorithm.PPO) != (self.critic is not None):
            raise ConfigError(
                f"algorithm={self.algorithm.value} with critic {self.critic}; PPO has a critic and the others have none"
            )
        if self.kl_coef < 0:
            raise ConfigError(f"kl_coef is {self.kl_coef}; it must be 0 (no reference model) or above")
        if self.clip_epsilon_high is not None and self.clip_epsilon_high < self.clip_epsilon:
            raise ConfigError(f"clip_epsilon_high {self.clip_epsilon_high} is below clip_epsilon {self.clip_epsilon}")

    def _check_engine(self) -> None:
        if self.engine is Engine.OPENRLHF:
            self._check_openrlhf()
        elif beyond := self._beyond_trl():
            raise ConfigError(f"the trl engine has no {beyond}; set engine=openrlhf and a placement, or leave it out")

    def _check_openrlhf(self) -> None:
        if self.placement is None:
            raise ConfigError(
                f"{self.name} runs on OpenRLHF and has no placement; it needs nodes and GPUs, or engine=trl"
            )
        if self.loss is Loss.FIXED_LENGTH:
            raise ConfigError("OpenRLHF has no loss=fixed-length; set loss=token-mean or engine=trl")
        uneven = [stage.from_step for stage in self.length_schedule if stage.from_step % self.save_interval]
        if self.dynamic_sampling and len(self.length_schedule) > 1:
            raise ConfigError(
                "dynamic_sampling makes fewer optimizer steps than batches of prompts, so OpenRLHF's checkpoints do not meet the steps at "
                "which length_schedule changes; give one response cap, and a run of its own to the next"
            )
        if uneven:
            raise ConfigError(
                f"the response cap changes at step {uneven[0]}, where no checkpoint is saved (save_interval {self.save_interval}): "
                "OpenRLHF continues with another cap from a checkpoint only; let save_interval divide it"
            )
        _ = self.needed_gpus  # raises where they do not suffice

    def _beyond_trl(self) -> str | None:
        """What of this spec TRL cannot do."""
        if self.algorithm in (Algorithm.PPO, Algorithm.REINFORCE_PLUS_PLUS):
            return f"algorithm={self.algorithm.value}"
        if self.dynamic_sampling:
            return "dynamic_sampling"
        if self.kl_coef > 0 and self.kl_form is KLForm.REWARD:
            return "kl_form=reward"
        if self.mismatch_correction is not MismatchCorrection.OFF:
            return "mismatch_correction; it samples with the weights it trains"
        return "placement" if self.placement is not None else None

    @property
    def updates_per_step(self) -> int:
        """Optimizer updates from one batch of prompts."""
        return self.prompts_per_step // self.mini_batch_prompts

    @property
    def longest_response_tokens(self) -> int:
        """The largest cap of the schedule; evaluations use it throughout, so that the points of a curve compare."""
        return max(stage.max_response_tokens for stage in self.length_schedule)

    @property
    def longest_sequence_tokens(self) -> int:
        """Positions that the longest prompt and the longest response take."""
        return self.max_prompt_tokens + self.longest_response_tokens

    @property
    def needed_gpus(self) -> Needed:
        """GPUs by role on the recipe's placement, which it must have. Raises `ConfigError` where they do not suffice."""
        assert self.placement is not None
        return self.placement.needed(reference=self.kl_coef > 0, critic=self.critic is not None)

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
    #: TRL: responses per forward and backward pass, per generation batch. They bound memory; None takes all at once.
    micro_batch_responses: int | None = None
    generation_batch_responses: int | None = None
    #: Forget what came after this step's checkpoint and go on from it; None goes on from the newest.
    restart_from: int | None = field(default=None, metadata=AT_RUN_TIME)

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

    def continues(self, changed: Mapping[str, tuple[Any, Any]]) -> bool:
        """Whether a run with these fields changed goes on where the earlier one stopped: what may be tuned after an alarm."""
        tunable = ["recipe.train_steps", "recipe.length_schedule", "recipe.kl_coef", "recipe.clip_epsilon", "recipe.placement",
                   "recipe.save_interval", "recipe.keep_checkpoints", "micro_batch_responses", "generation_batch_responses"]  # fmt: skip
        # DeepSpeed's checkpoints bring their learning rate, and OpenRLHF goes on with it whatever its options say.
        if self.recipe.engine is Engine.TRL:
            tunable.append("recipe.learning_rate")
        return all(path.startswith(tuple(tunable)) for path in changed)
