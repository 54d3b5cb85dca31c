"""What one stage of a study takes: hours and bytes from the estimators, and the honest word where there is none. Arithmetic only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_octo import artifacts
from megatron_octo.conversion.config import Conversion, Direction, ExportDtype
from megatron_octo.curation.config import Annotation, Refinement, TinyWorld
from megatron_octo.curation.language_model import costs as asking
from megatron_octo.evaluation.config import Evaluation, Overlap
from megatron_octo.launch.explain.show import INT32_BYTES, TOKENS_PER_SECOND_AND_CORE
from megatron_octo.launch.explain.training import derived_throughput
from megatron_octo.launch.jobs import Job
from megatron_octo.launch.jobscript.requests import Request
from megatron_octo.plotting.config import Report
from megatron_octo.recipes import corpora
from megatron_octo.rl.config import RLJob
from megatron_octo.tokenization.config import Tokenization
from megatron_octo.training import estimate
from megatron_octo.training.config import MidTraining, TrainingJob
from megatron_octo.training.memory import memory
from megatron_octo.training.precision import Precision
from megatron_octo.units import bytes_, count

#: Published weights are bf16, and `auto` keeps what the source has.
EXPORT_BYTES = {ExportDtype.AUTO: 2, ExportDtype.BF16: 2, ExportDtype.FP16: 2, ExportDtype.FP32: 4}
#: Per parameter of an RL checkpoint: bf16 weights, their fp32 copy and Adam's moments. By DeepSpeed's layout, not measured.
RL_CHECKPOINT_BYTES = 14
NO_TIME = "time not estimated"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a stage takes. None: there is no estimate."""

    seconds: float | None = None
    #: What stays.
    disk_bytes: int | None = None
    #: What is there besides until the stage ends.
    passing_bytes: int = 0
    #: What the numbers rest on, or why there are none.
    remark: str = NO_TIME


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a stage's own config does not say: the phases of the study it belongs to."""

    phases: tuple[MidTraining, ...]
    #: Its corpora are written by a stage of its own: published sizes are of others with the same names.
    generated: bool

    @property
    def parameters(self) -> int | None:
        """Of the study's model."""
        return estimate.parameters(self.phases[0].model) if self.phases else None

    @property
    def token_bytes(self) -> int:
        return estimate.token_bytes(self.phases[0].model.vocab_size) if self.phases else INT32_BYTES

    def tokens_read(self, corpus: str) -> int:
        """Tokens of a corpus that all phases read together, repeats included."""
        shares = ((phase, share) for phase in self.phases for share in phase.blend.shares)
        return round(sum(share.weight * phase.trained_tokens for phase, share in shares if share.corpus == corpus))

    def tokens_published(self, corpus: str) -> int | None:
        return None if self.generated else corpora.tokens(corpus)


def facts(jobs: Sequence[Job]) -> Facts:
    return Facts(
        phases=tuple(job.config.recipe for job in jobs if isinstance(job.config, TrainingJob)),
        generated=any(isinstance(job.config, TinyWorld) for job in jobs),
    )


def cost(job: Job, request: Request | None, known: Facts, *, throughput: float | None) -> Cost:
    """What a job takes.

    Args:
        request: what it gets of a cluster; None on this machine.
        throughput: of training, tokens per second and GPU; None takes a derived one.
    """
    config = job.config
    if isinstance(config, TrainingJob):
        return _training(config.recipe, request, throughput)
    if isinstance(config, Tokenization):
        return _tokenization(config, request, known)
    if isinstance(config, Conversion):
        return _conversion(config, known)
    if isinstance(config, RLJob):
        return _rl(config, known)
    if isinstance(config, Annotation):
        return _annotation(config)
    if isinstance(config, Refinement):
        return _refinement(config)
    # Answers, tables and figures: megabytes.
    return Cost(disk_bytes=0) if isinstance(config, (Evaluation, Overlap, Report)) else Cost()


def _training(recipe: MidTraining, request: Request | None, throughput: float | None) -> Cost:
    disk = _checkpoints(recipe) * estimate.checkpoint_bytes(recipe)
    if request is None or not request.gpus_per_node:
        return Cost(disk_bytes=disk, remark=f"{NO_TIME} where its speed is not known")
    needed = f"{bytes_(memory(recipe, request.tasks).total)} of memory per GPU"
    if throughput is None and recipe.precision is not Precision.BF16:
        return Cost(disk_bytes=disk, remark=f"{needed}; {NO_TIME} in {recipe.precision.value}, state a throughput")
    rate = throughput or derived_throughput(recipe)
    return Cost(
        seconds=recipe.trained_tokens / (rate * request.tasks),
        disk_bytes=disk,
        remark=f"{count(recipe.trained_tokens)} tokens at {rate:,.0f} tokens/s/GPU; {needed}",
    )


def _checkpoints(recipe: MidTraining) -> int:
    """Checkpoints that are there at the end."""
    saved = math.ceil(recipe.train_iters / recipe.save_interval)
    for_good = recipe.train_iters // recipe.keep_every if recipe.keep_every is not None else 0
    return min(saved, recipe.keep_checkpoints + for_good)


def _tokenization(config: Tokenization, request: Request | None, known: Facts) -> Cost:
    published, read = known.tokens_published(config.corpus), known.tokens_read(config.corpus)
    tokens = min(filter(None, (published, read)), default=None)
    if tokens is None:
        return Cost(remark=f"{NO_TIME}: no size of '{config.corpus}' is known")
    cores = config.tasks * (request.cpus_per_task if request is not None else config.workers)
    disk = tokens * known.token_bytes
    return Cost(
        seconds=tokens / (TOKENS_PER_SECOND_AND_CORE * cores),
        disk_bytes=disk,
        passing_bytes=disk if config.shuffle_seed is not None else 0,
        remark=_tokens_remark(tokens, published),
    )


def _tokens_remark(tokens: int, published: int | None) -> str:
    if published is None:
        return f"{count(tokens)} tokens, as many as are read; its size is not known"
    if tokens < published:
        return f"{count(tokens)} tokens, as many as are read; {count(published)} are published, give a part"
    return f"{count(tokens)} tokens, as published"


def _annotation(config: Annotation) -> Cost:
    """Of a language model's time only the tokens are known: a server's GPUs are not the job's."""
    counts = _counts(config.documents)
    documents = counts.get("kept_documents", config.sample)
    characters = counts.get("kept_characters", documents * config.max_characters)
    asked = asking.spell(asking.annotation(config, documents=documents, characters=characters), config.model)
    return Cost(remark=asked if counts else f"at most {asked}")


def _refinement(config: Refinement) -> Cost:
    if not (counts := _counts(config.documents)):
        return Cost(remark=f"{NO_TIME}: what is left to rewrite is known when {config.documents.name} is done")
    found = asking.refinement(config, documents=counts["kept_documents"], characters=counts["kept_characters"])
    return Cost(remark=asking.spell(found, config.model))


def _counts(stage: Path) -> dict[str, int]:
    """Of a finished stage; none before."""
    mark = artifacts.read_mark(stage)
    return mark["counts"] if mark is not None and mark["done"] else {}


def _conversion(config: Conversion, known: Facts) -> Cost:
    if known.parameters is None:
        return Cost()
    width = EXPORT_BYTES[config.dtype]
    made = "checkpoint" if config.direction is Direction.FROM_HF else "Hugging Face model"
    return Cost(disk_bytes=known.parameters * width, remark=f"{made}, {width} bytes a parameter; {NO_TIME}")


def _rl(config: RLJob, known: Facts) -> Cost:
    remark = f"{NO_TIME}: it depends on how long the answers get"
    if known.parameters is None:
        return Cost(remark=remark)
    kept = min(config.recipe.keep_checkpoints, math.ceil(config.recipe.train_steps / config.recipe.save_interval))
    bytes_per_parameter = kept * RL_CHECKPOINT_BYTES + EXPORT_BYTES[ExportDtype.AUTO]
    return Cost(disk_bytes=known.parameters * bytes_per_parameter, remark=remark)
