"""One phase of training on one rank: what it starts from, the loop, the checkpoints, the metrics.

Rank 0 speaks and writes the metrics; every rank reads its own windows of the shards.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from megatron.core.optimizer import MegatronOptimizer

from megatron_octo import artifacts, process
from megatron_octo.config import to_dict
from megatron_octo.errors import ArtifactError
from megatron_octo.shards import TOKENIZER_SHA256, Corpus
from megatron_octo.training import announce, checkpoint, gpu_environment, lineage, megatron
from megatron_octo.training.checkpoint import Progress
from megatron_octo.training.config import MidTraining, OptimizerState, TrainingJob
from megatron_octo.training.corpora import open_corpora, sample_orders
from megatron_octo.training.data import SampleOrder
from megatron_octo.training.estimate import parameters
from megatron_octo.training.journal import Journal, say
from megatron_octo.training.lineage import Lineage
from megatron_octo.training.loop import Run, train
from megatron_octo.training.meter import Meter
from megatron_octo.training.saving import Saver
from megatron_octo.training.state import Reason, StopSignal
from megatron_octo.training.tracking import Row, Tracker
from megatron_octo.training.watchdog import Watchdog

#: Collectives give up after the watchdog has spoken, not before.
COLLECTIVES_WAIT_LONGER = 3.0


def run(job: TrainingJob, out: Path, force: bool) -> None:
    """Train one phase, or continue it from its newest checkpoint."""
    logging.getLogger("megatron").setLevel(logging.ERROR)
    process.allow_open_files()
    # What can be refused is refused before the stage directory says that this run began.
    corpora = open_corpora(job)
    order, validation = sample_orders(job.recipe, corpora)
    job.recipe.num_microbatches(process.world_size())
    megatron.require_precision(job.recipe.precision, job.recipe.fp8)
    gpu_environment.require_attention_is_free(os.environ)
    if job.init_checkpoint is not None:
        checkpoint.require_same_model(job.init_checkpoint, job.recipe.model)
    with _stage(job, out, force) as stage:
        ranks = megatron.initialize(
            job.recipe.parallelism,
            job.recipe.seed,
            timeout_seconds=COLLECTIVES_WAIT_LONGER * job.options.watchdog_seconds,
        )
        # Every rank learns from rank 0 whether there is anything to do.
        if megatron.from_rank_zero(stage is not None and stage.done):
            return
        model, optimizer = megatron.build(job.recipe)
        own = checkpoint.latest(out)
        progress, ancestry = _start(job, out, own, model=model, optimizer=optimizer, corpora=corpora)
        if stage is not None:
            artifacts.write_json(out / "model.json", to_dict(job.recipe.model))
            lineage.write(out, ancestry)
            continued = own.name if own is not None else None
            decided = announce.decided(
                job.recipe, options=job.options, ranks=ranks, order=order, progress=progress, lineage=ancestry,
                continued=continued,
            )  # fmt: skip
            say(decided)
        stopped_by = _train(
            job,
            out,
            model=model,
            optimizer=optimizer,
            order=order,
            validation=validation,
            ranks=ranks,
            progress=progress,
        )
        if stage is not None:
            stage.complete = stopped_by is None
            stage.counts |= _counts(job.recipe, ranks, order, progress, ancestry)
            stage.known_sha256 |= checkpoint.known_sha256(out)
        megatron.barrier()


def _train(
    job: TrainingJob,
    out: Path,
    *,
    model: megatron.Model,
    optimizer: MegatronOptimizer,
    order: SampleOrder,
    validation: SampleOrder | None,
    ranks: megatron.Ranks,
    progress: Progress,
) -> str | None:
    """Run the loop with everything that watches it; the name of the signal that stopped it, None at the end of the phase."""
    recipe = job.recipe
    speaks = ranks.rank == 0
    journal = Journal(out, progress, speaks=speaks)
    saver = Saver(
        out, model=model, optimizer=optimizer, keep=recipe.keep_checkpoints, keep_every=recipe.keep_every,
        asynchronous=job.options.async_save, on_saved=journal.saved, on_failure=journal.not_saved,
    )  # fmt: skip
    watchdog = Watchdog(
        timeout_seconds=job.options.watchdog_seconds, rank=ranks.rank, world_size=ranks.world_size,
        store=megatron.store(), directory=out, say=say,
    )  # fmt: skip
    with StopSignal() as stop, journal, watchdog, _tracker(job, out, progress, enabled=speaks) as on_step:
        here = Run(
            recipe=recipe, model=model, optimizer=optimizer, order=order, validation=validation, ranks=ranks,
            progress=progress, saver=saver, watchdog=watchdog, stop=stop, meter=Meter(recipe, ranks.world_size),
            on_step=on_step, on_skip=partial(journal.skipped, recipe, order),
        )  # fmt: skip
        train(here)
        if progress.step == recipe.train_iters:
            journal.stands(Reason.FINISHED, None)
            return None
        signal = stop.received or "a signal to another rank"
        journal.stands(Reason.SIGNAL, signal)
        if speaks:
            say(
                f"{recipe.name}: {signal} after step {progress.step:,} of {recipe.train_iters:,}; saved, start it again to continue"
            )
        return signal


def _start(
    job: TrainingJob,
    out: Path,
    own: Path | None,
    *,
    model: megatron.Model,
    optimizer: MegatronOptimizer,
    corpora: dict[str, Corpus],
) -> tuple[Progress, Lineage]:
    """Load what this run starts from: its own newest checkpoint, its parent's, an imported model's, or nothing."""
    if own is not None:
        known = lineage.read(out)
        assert known is not None, "written before the first checkpoint"
        return checkpoint.load(own, model=model, optimizer=optimizer), known
    branch, source = job.recipe.branch_point, starting_checkpoint(job)
    carried = branch is not None and branch.optimizer_state is OptimizerState.CARRY
    parent = Progress()
    if source is not None and carried:
        parent = checkpoint.load(source, model=model, optimizer=optimizer)
    elif source is not None:
        checkpoint.load_weights(source, model=model, optimizer=optimizer)
        if lineage.read(source.parents[1]) is not None:  # a run of ours, not an imported model
            parent = checkpoint.read_progress(source)
    ancestry = lineage.of_job(
        job,
        tokenizer_sha256=next(iter(corpora.values())).manifest.tokenizer_sha256,
        step=parent.step,
        total_tokens=parent.total_tokens,
        carried=carried,
    )
    return Progress(total_tokens=parent.total_tokens), ancestry


def starting_checkpoint(job: TrainingJob) -> Path | None:
    """The checkpoint a new run starts from, None for random weights. Raises `ArtifactError` where it is missing."""
    if job.init_checkpoint is None:
        return None
    if job.recipe.branch_point is None:
        return checkpoint.require_latest(job.init_checkpoint)
    try:
        return checkpoint.at_step(job.init_checkpoint, lineage.branch_step(job))
    except ArtifactError as error:
        raise ArtifactError(
            f"{job.recipe.name} leaves its parent after {job.recipe.branch_point.at_tokens:,} tokens: {error}. Which stay is decided by the "
            "parent's save_interval_tokens, keep_checkpoints and keep_every_tokens; one more is made by ending it there "
            "(train_tokens=N)"
        ) from error


@contextlib.contextmanager
def _stage(job: TrainingJob, out: Path, force: bool) -> Iterator[artifacts.Stage | None]:
    """Rank 0 owns the stage directory; the others get None."""
    if not process.is_rank_zero():
        yield None
        return
    inputs: dict[str, Any] = {f"shards/{name}": job.shards / name for name in job.recipe.corpora}
    if job.init_checkpoint is not None:
        inputs["init_checkpoint"] = _identity_of_start(job, out, force)
    if force and (own := checkpoint.latest(out)) is not None:
        say(f"--force: {out} is made anew; its checkpoints are removed, the newest of them {own.name}")
    with artifacts.stage(out, kind="train", config=job, inputs=inputs, resumable=True, force=force) as stage:
        yield stage


def _identity_of_start(job: TrainingJob, out: Path, force: bool) -> Path | dict[str, Any]:
    """What makes the starting weights these and no others: of a branch one checkpoint of its parent, which may train on."""
    assert job.init_checkpoint is not None
    if job.recipe.branch_point is None:
        return job.init_checkpoint
    mark = artifacts.read_mark(out)
    if mark is not None and not force and checkpoint.latest(out) is not None:
        recorded: dict[str, Any] = mark["inputs"].get("init_checkpoint", {})
        if recorded and not Path(recorded["path"]).exists():
            return recorded  # the parent dropped it since; this run no longer needs it
    source = starting_checkpoint(job)
    assert source is not None
    return source / checkpoint.CHECKSUMS


@contextlib.contextmanager
def _tracker(job: TrainingJob, out: Path, progress: Progress, *, enabled: bool) -> Iterator[Callable[[Row], None]]:
    """A function that takes one step's row of metrics; does nothing beside rank 0."""
    if not enabled:
        yield lambda row: None
        return
    with Tracker(
        out, name=job.recipe.name, resume_step=progress.step, total_tokens=job.recipe.trained_tokens,
        done_tokens=progress.tokens, wandb_project=job.options.wandb_project, config=to_dict(job),
    ) as tracker:  # fmt: skip
        yield tracker.log


def _counts(
    recipe: MidTraining, ranks: megatron.Ranks, order: SampleOrder, progress: Progress, ancestry: Lineage
) -> dict[str, Any]:
    return {
        "steps": progress.step,
        "tokens": progress.tokens,
        "total_tokens": progress.total_tokens,
        "skipped_steps": progress.skipped_steps,
        "parameters": parameters(recipe.model),
        "world_size": ranks.world_size,
        TOKENIZER_SHA256: ancestry.tokenizer_sha256,
        "epochs": order.epochs(progress.step * recipe.global_batch_size),
        "lineage": ancestry.spelled,
    }
