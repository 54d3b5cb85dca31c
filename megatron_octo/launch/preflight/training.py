"""Checks of a training job: memory, sessions, shards and checkpoint. Part of `submission.py`."""

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_octo import artifacts, units
from megatron_octo.errors import ConfigError, OctoError, listed
from megatron_octo.launch.explain.training import derived_throughput
from megatron_octo.launch.jobs import Job
from megatron_octo.launch.jobscript.requests import Request
from megatron_octo.launch.place import Place, Restart, minutes
from megatron_octo.launch.preflight.checklist import Check, fail, ok, unknown, warn
from megatron_octo.launch.slurm.partitions import Partition
from megatron_octo.training.activations import Modules
from megatron_octo.training.config import MidTraining, TrainingJob
from megatron_octo.training.memory import memory
from megatron_octo.training.precision import Precision

#: GPU memory by a part of the name that Slurm's gres gives the type, where the name does not say it itself (`a100_80gb`).
GPU_BYTES = {"gb200": 186, "b200": 180, "h200": 141, "h100": 80, "l40": 48, "a40": 48, "v100": 32}
#: Of a GPU's memory, for the CUDA context, NCCL's buffers and fragments, which `training/memory.py` leaves out (guess).
SPARE_GPU_SHARE = 0.10


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """What Slurm may not know, and estimates need."""

    #: Of one GPU; None reads it off the name of the GPUs' type.
    gpu_bytes: int | None = None
    #: Tokens per second and GPU, or per rank on places without; None derives it for an H100.
    throughput: float | None = None


def fits(
    recipe: MidTraining, request: Request, partition: Partition | None, place: Place, assumed: Assumed
) -> Iterator[Check]:
    """Memory and time of a phase."""
    yield _memory(recipe, request, partition, assumed)
    yield _run_time(recipe, request, place, assumed)


def _memory(recipe: MidTraining, request: Request, partition: Partition | None, assumed: Assumed) -> Check:
    what = "memory"
    on_gpu = request.gpus_per_node > 0
    try:
        needed = memory(recipe, request.tasks, modules=None if on_gpu else Modules.LOCAL).total
    except ConfigError as error:
        return fail(what, str(error), "change --nodes or the recipe's layout")
    has = _bytes_per_rank(request, partition, assumed)
    if has is None:
        return unknown(
            what, f"{units.bytes_(needed)} per rank; how much a GPU has is not known", "say --gpu-memory 80GB"
        )
    text = f"{units.bytes_(needed)} on the fullest rank, {units.bytes_(has)} are there"
    if needed > has:
        remedy = (
            "more nodes, a larger tensor_model_parallel_size, a smaller micro_batch_size, or recompute.granularity=full"
        )
        return fail(what, text, remedy)
    if on_gpu and needed > (1 - SPARE_GPU_SHARE) * has:
        return warn(what, text, "CUDA and NCCL take some GB too: a smaller micro_batch_size is safer")
    return ok(what, text)


def _bytes_per_rank(request: Request, partition: Partition | None, assumed: Assumed) -> int | None:
    if request.gpus_per_node == 0:
        return partition.memory_bytes // request.tasks_per_node or None if partition is not None else None
    return assumed.gpu_bytes or (gpu_bytes(partition.gpu_type) if partition is not None else None)


def gpu_bytes(gpu_type: str) -> int | None:
    """Memory of a type as Slurm's gres calls it: `nvidia_a100_80gb_pcie`, `h100`; None for one we do not know."""
    if said := re.search(r"(\d+)gb", gpu_type.lower()):
        return int(said[1]) * units.B
    return next((size * units.B for name, size in GPU_BYTES.items() if name in gpu_type.lower()), None)


def _run_time(recipe: MidTraining, request: Request, place: Place, assumed: Assumed) -> Check:
    """Whether the run ends within the sessions that the place allows."""
    what = "run time"
    is_known = assumed.throughput is not None or (request.gpus_per_node > 0 and recipe.precision is Precision.BF16)
    if not is_known:
        return unknown(what, "how fast it is there is not known", "say --throughput: tokens per second and rank")
    rate = assumed.throughput or derived_throughput(recipe)
    seconds = recipe.trained_tokens / rate / request.tasks
    session = 60 * minutes(request.time_limit) - place.signal_seconds
    needed = -(-int(seconds) // session) or 1
    origin = "" if assumed.throughput else " (derived for an H100; --throughput says yours)"
    text = f"{units.duration(seconds)} at {rate:,.0f} tokens/s and rank{origin}: {units.counted(needed, 'session')} of {request.time_limit}"
    if place.restart is Restart.NEVER and needed > 1:
        return fail(what, text, "the place says restart: never; raise `time_limit` or --nodes, or let it requeue")
    if place.restart is Restart.CHAIN and needed > place.copies:
        return fail(what, text, f"the chain has {place.copies}; set `copies: {needed + 1}` in the place")
    return ok(what, text)


def inputs(job: TrainingJob, jobs: Sequence[Job], place: Place) -> Iterator[Check]:
    """Shards and checkpoint: made by a job before this one, or there, done and whole."""
    made = {other.out.absolute(): other.name for other in jobs}
    for corpus in job.recipe.corpora:
        yield _made_or(f"shards {corpus}", job.shards / corpus, made, place, _shards)
    if job.init_checkpoint is not None:
        look = functools.partial(_checkpoint, is_branch=job.recipe.branch_point is not None)
        yield _made_or("checkpoint", job.init_checkpoint, made, place, look)
    elif job.recipe.init_from is not None or job.recipe.branch_point is not None:
        yield fail("checkpoint", "none named, and the recipe starts from one", "name it with --init-from DIR")


def _made_or(
    what: str, directory: Path, made: Mapping[Path, str], place: Place, look: Callable[[str, Path], Check]
) -> Check:
    """What `look` says, where the directory is to be there by now."""
    if directory.absolute() in made:
        return ok(what, f"made by {made[directory.absolute()]}")
    if place.ssh is not None and not directory.exists():
        return unknown(what, f"{directory} is not on this machine", "run this on the login node to look at it")
    return look(what, directory)


def _shards(what: str, directory: Path) -> Check:
    """Whole: every file has the size that the manifest says. Its content was hashed when it was made."""
    try:
        artifacts.finished(directory)
        manifest = json.loads((directory / "manifest.json").read_text())
        shards = [(shard["name"], shard["bytes"]) for shard in manifest["shards"]]
        tokens = units.count(manifest["tokens"])
    except (OctoError, OSError, ValueError, KeyError) as error:
        return fail(what, str(error), "make it with 'megatron-octo tokenize'")
    wrong = [f"{name}.bin" for name, size in shards if _size(directory / f"{name}.bin") != size]
    wrong += [f"{name}.idx" for name, _ in shards if not _size(directory / f"{name}.idx")]
    if wrong:
        return fail(
            what, f"{directory}: missing or cut: {listed(wrong)}", "copy the corpus again, or tokenize it again"
        )
    return ok(what, f"{tokens} tokens in {units.counted(len(shards), 'shard')}")


def _checkpoint(what: str, directory: Path, *, is_branch: bool) -> Check:
    """Whole: every file that its stage made is there."""
    try:
        mark = artifacts.read_mark(directory) if is_branch else None
        if mark is not None and not mark["done"]:
            return warn(what, f"{directory} is still training", "it must have saved at the branch point by then")
        mark = artifacts.finished(directory)
    except OctoError as error:
        return fail(what, str(error), "run the stage that makes it, or name another with --init-from")
    lost = [name for name in mark["outputs"] if not (directory / name).exists()]
    if lost:
        return fail(what, f"{directory}: missing: {listed(lost)}", "copy it again, or make it again")
    return ok(what, f"{directory}: {mark['kind']}, {units.counted(len(mark['outputs']), 'file')}")


def _size(file: Path) -> int:
    """0 for a file that is not there."""
    return file.stat().st_size if file.is_file() else 0
