"""One phase of training on one rank: what it starts from, the loop, the checkpoints, the metrics.

Rank 0 speaks and writes the metrics; every rank reads its own windows of the shards.
"""

import contextlib
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from megatron_octo import artifacts, process, units
from megatron_octo.config import to_dict
from megatron_octo.shards import TOKENIZER_SHA256, Corpus
from megatron_octo.training import checkpoint, lineage, megatron
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
from megatron_octo.training.schedule import learning_rate
from megatron_octo.training.state import Reason, StopSignal
from megatron_octo.training.tracking import Tracker
from megatron_octo.training.watchdog import Watchdog

#: Collectives give up after the watchdog has spoken, not before.
COLLECTIVES_WAIT_LONGER = 3.0


def run(job: TrainingJob, out: Path, force: bool) -> None:
    """Train one phase, or continue it from its newest checkpoint."""
    logging.getLogger("megatron").setLevel(logging.ERROR)
    process.allow_open_files()
    with _stage(job, out, force) as stage:
        corpora = open_corpora(job)
        order, validation = sample_orders(job.recipe, corpora)
        ranks = megatron.initialize(
            job.recipe.parallelism,
            job.recipe.seed,
            timeout_seconds=COLLECTIVES_WAIT_LONGER * job.options.watchdog_seconds,
        )
        job.recipe.num_microbatches(ranks.world_size)
        # Every rank learns from rank 0 whether there is anything to do.
        if megatron.from_rank_zero(stage is not None and stage.done):
            return
        model, optimizer = megatron.build(job.recipe)
        progress, own_lineage = _start(job, out, model=model, optimizer=optimizer, corpora=corpora)
        if stage is not None:
            artifacts.write_json(out / "model.json", to_dict(job.recipe.model))
            lineage.write(out, own_lineage)
            say(_decided(job.recipe, ranks, order, progress, own_lineage))
        stopped_by = _train(job, out, model, optimizer, order, validation, ranks, progress)
        if stage is not None:
            stage.complete = stopped_by is None
            stage.counts |= _counts(job.recipe, ranks, order, progress, own_lineage)
            stage.known_sha256 |= checkpoint.known_sha256(out)
        megatron.barrier()


def _train(
    job: TrainingJob,
    out: Path,
    model: megatron.Model,
    optimizer: Any,
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
            journal.ended(Reason.FINISHED, None)
            return None
        signal = stop.received or "a signal to another rank"
        journal.ended(Reason.SIGNAL, signal)
        if speaks:
            say(
                f"{recipe.name}: {signal} after step {progress.step:,} of {recipe.train_iters:,}; saved, start it again to continue"
            )
        return signal


def _start(
    job: TrainingJob, out: Path, *, model: megatron.Model, optimizer: Any, corpora: dict[str, Corpus]
) -> tuple[Progress, Lineage]:
    """Load what this run starts from: its own newest checkpoint, its parent's, an imported model's, or nothing."""
    tokenizer_sha256 = next(iter(corpora.values())).manifest.tokenizer_sha256
    branch = job.recipe.branch_point
    carried = branch is not None and branch.optimizer_state is OptimizerState.CARRY
    own = checkpoint.latest(out)
    if own is not None:
        known = lineage.read(out)
        assert known is not None, "written before the first checkpoint"
        return checkpoint.load(own, model=model, optimizer=optimizer), known
    source = starting_checkpoint(job)
    progress = Progress()
    step = 0
    if source is not None and carried:
        parent = checkpoint.load(source, model=model, optimizer=optimizer)
        step, progress.total_tokens = parent.step, parent.total_tokens
    elif source is not None:
        checkpoint.load_weights(source, model=model, optimizer=optimizer)
        if branch is not None:
            parent = checkpoint.read_progress(source)
            step, progress.total_tokens = parent.step, parent.total_tokens
    return progress, lineage.of_job(
        job, tokenizer_sha256=tokenizer_sha256, step=step, total_tokens=progress.total_tokens, carried=carried
    )


def starting_checkpoint(job: TrainingJob) -> Path | None:
    """The checkpoint a new run starts from, None for random weights. Raises `ArtifactError` where it is missing."""
    if job.init_checkpoint is None:
        return None
    if job.recipe.branch_point is not None:
        return checkpoint.at_step(job.init_checkpoint, job.recipe.branch_step)
    return checkpoint.require_latest(job.init_checkpoint)


@contextlib.contextmanager
def _stage(job: TrainingJob, out: Path, force: bool) -> Iterator[artifacts.Stage | None]:
    """Rank 0 owns the stage directory; the others get None."""
    if not process.is_rank_zero():
        yield None
        return
    inputs = {f"shards/{name}": job.shards / name for name in job.recipe.corpora}
    if job.init_checkpoint is not None:
        # A branch depends on one checkpoint of its parent, which may still be training.
        source = starting_checkpoint(job)
        assert source is not None
        sums = source / checkpoint.CHECKSUMS
        inputs["init_checkpoint"] = sums if job.recipe.branch_point is not None else job.init_checkpoint
    with artifacts.stage(out, kind="train", config=job, inputs=inputs, resumable=True, force=force) as stage:
        yield stage


@contextlib.contextmanager
def _tracker(job: TrainingJob, out: Path, progress: Progress, *, enabled: bool) -> Iterator[Any]:
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
    recipe: MidTraining, ranks: megatron.Ranks, order: SampleOrder, progress: Progress, own_lineage: Lineage
) -> dict[str, Any]:
    return {
        "steps": progress.step,
        "tokens": progress.tokens,
        "total_tokens": progress.total_tokens,
        "skipped_steps": progress.skipped_steps,
        "parameters": parameters(recipe.model),
        "world_size": ranks.world_size,
        TOKENIZER_SHA256: own_lineage.tokenizer_sha256,
        "epochs": order.epochs(progress.step * recipe.global_batch_size),
        "lineage": own_lineage.spelled,
    }


def _decided(
    recipe: MidTraining, ranks: megatron.Ranks, order: SampleOrder, progress: Progress, own_lineage: Lineage
) -> str:
    epochs = order.epochs(recipe.train_iters * recipe.global_batch_size)
    rates = [
        learning_rate(recipe.schedule, tokens=t, train_tokens=recipe.trained_tokens) for t in (0, recipe.trained_tokens)
    ]
    blend = ", ".join(f"{s.corpus} {s.weight:g} ({epochs[s.corpus]:.2f} epochs)" for s in recipe.blend.shares)
    return (
        f"{recipe.name}: step {progress.step} of {recipe.train_iters}, {units.count(recipe.tokens_per_step)} tokens per step, "
        f"{units.count(recipe.trained_tokens)} in all (total so far {units.count(progress.total_tokens)})\n"
        f"  from {own_lineage.spelled}\n"
        f"  learning rate {rates[0]:g} -> {rates[1]:g} ({recipe.schedule.style.value}), {recipe.precision.value} on "
        f"{megatron.device().type}, {recipe.parallelism.spelled} x DP {ranks.data_parallel_size}, "
        f"{recipe.num_microbatches(ranks.world_size)} micro-batches of {recipe.micro_batch_size} per step\n"
        f"  checkpoint every {recipe.save_interval:,} steps\n  blend: {blend}"
    )
