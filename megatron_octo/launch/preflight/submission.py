"""Before a job is submitted: would it run at this place? One line per check, each with what to do. Some seconds, on a login node.

Everything is asked for where the job will start: here, or over SSH where the place names a login node. Nothing is submitted, and nothing
stays behind. What only the nodes can tell is `node/check.py`'s, the job's first minute.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_octo import units
from megatron_octo.errors import ConfigError, ResourceError, listed, nearest
from megatron_octo.launch.jobs import Job, logs_beside
from megatron_octo.launch.jobscript import batch as batches
from megatron_octo.launch.jobscript import scripts
from megatron_octo.launch.jobscript.batch import BatchJob
from megatron_octo.launch.jobscript.requests import Request
from megatron_octo.launch.place import Kind, Place, minutes
from megatron_octo.launch.preflight import environment, training
from megatron_octo.launch.preflight.checklist import Check, fail, ok, unknown, warn
from megatron_octo.launch.preflight.training import Assumed
from megatron_octo.launch.slurm import partitions, ssh
from megatron_octo.launch.slurm.partitions import Partition
from megatron_octo.training import estimate
from megatron_octo.training.config import MidTraining, TrainingJob


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What would be submitted."""

    jobs: tuple[Job, ...]
    place: Place
    #: Of training, or of the only job; None leaves it to the stage.
    nodes: int | None
    #: Directory of the study, or of the only stage.
    study: Path
    assumed: Assumed
    #: Whether what the jobs read is known, and to be looked at.
    has_data: bool


def of_recipe(
    recipe: MidTraining,
    place: Place,
    *,
    nodes: int | None,
    ranks: int,
    out: Path,
    shards: Path | None,
    init_checkpoint: Path | None,
    assumed: Assumed,
) -> Plan:
    """A phase alone, of which the data may not be known yet.

    Args:
        ranks: on places without GPUs; with them every GPU is one.
        shards: None leaves shards and checkpoint unchecked.
    """
    job = Job(
        name=recipe.name,
        module="megatron_octo.training.run",
        config=TrainingJob(recipe=recipe, shards=shards or out.with_name("shards"), init_checkpoint=init_checkpoint),
        out=out,
        logs=logs_beside(out),
        ranks=ranks,
    )
    return Plan(jobs=(job,), place=place, nodes=nodes, study=out, assumed=assumed, has_data=shards is not None)


def examine(plan: Plan) -> list[Check]:
    """The checks of the place, of the disk and of every job. Raises `ConfigError` for a place that is not Slurm's."""
    place = plan.place
    if place.kind is not Kind.SLURM:
        raise ConfigError(
            f"this place is of kind {place.kind.value}; only slurm can be asked whether it would take a job"
        )
    try:
        known = partitions.ask(place)
    except ResourceError as error:
        return [fail("Slurm", str(error), "run this on a login node, or name one as `ssh` in the place")]
    checks = [*environment.checks(place, plan.jobs), _disk(plan)]
    for job in plan.jobs:
        whose = f"{job.name}: " if len(plan.jobs) > 1 else ""
        checks += [dataclasses.replace(check, what=f"{whose}{check.what}") for check in _of_job(job, plan, known)]
    return checks


def _of_job(job: Job, plan: Plan, known: Sequence[Partition]) -> Iterator[Check]:
    try:
        batch = _batch(job, plan)
    except ConfigError as error:
        yield fail("layout", str(error), "change --nodes, the place's numbers or the recipe's layout")
        return
    request = batch.request
    nodes, tasks = units.counted(request.nodes, "node"), units.counted(request.tasks_per_node, "task")
    yield ok("layout", f"{nodes} x {tasks}")
    partition = partitions.find(request.partition, known)
    if partition is None:
        yield _no_partition(request, known)
    else:
        yield _fits(request, partition)
        yield _time(request, partition)
    if isinstance(job.config, TrainingJob):
        yield from training.fits(job.config.recipe, request, partition, plan.place, plan.assumed)
        if plan.has_data:
            yield from training.inputs(job.config, plan.jobs, plan.place)
        else:
            yield unknown("data", "shards and checkpoint were not named", "say --shards DIR, and --init-from DIR")
    yield _test_only(batch, plan.place)


def _batch(job: Job, plan: Plan) -> BatchJob:
    """The job without those it waits for. Raises `ConfigError` where it does not fit the place."""
    nodes = plan.nodes if len(plan.jobs) == 1 or isinstance(job.config, TrainingJob) else None
    directory = Path.cwd() if plan.place.ssh is None else plan.study
    (batch,) = batches.prepare([dataclasses.replace(job, needs=())], plan.place, nodes, plan.study, directory)
    return batch


def _no_partition(request: Request, known: Sequence[Partition]) -> Check:
    names = [one.name for one in known]
    near = (
        f"there is no '{request.partition}'{nearest(request.partition, names)}"
        if request.partition
        else "there is no default"
    )
    return fail("partition", near, f"set `partition` in the place: {listed(names)}")


def _fits(request: Request, partition: Partition) -> Check:
    """In numbers why sbatch says no: it only speaks of a node configuration that is not available."""
    if partition.nodes == 0:
        return unknown("partition", f"{partition.name} shows no nodes: none there, or powered down")
    cpus = request.cpus_per_task * request.tasks_per_node
    if cpus > partition.cpus:
        text = f"{cpus} CPUs per node are asked for, {partition.name} has {partition.cpus}"
        return fail("partition", text, "lower `cpus_per_node` in the place")
    if request.gpus_per_node > partition.gpus:
        text = f"{request.gpus_per_node} GPUs per node are asked for, {partition.name} has {partition.gpus}"
        return fail("partition", text, "mend `gpus_per_node` or `partition` in the place")
    if request.nodes > partition.nodes:  # sbatch knows about those that are powered down
        text = f"{request.nodes} nodes are asked for, {partition.name} shows {partition.nodes}"
        return warn("partition", text, "ask for fewer --nodes, unless the others are powered down")
    gpus = f" and {partition.gpus} GPUs {partition.gpu_type}".rstrip() if partition.gpus else ""
    return ok(
        "partition", f"{partition.name}: {units.counted(partition.nodes, 'node')} with {partition.cpus} CPUs{gpus}"
    )


def _time(request: Request, partition: Partition) -> Check:
    """Slurm may take a job that no partition would ever start (EnforcePartLimits=NO is the default)."""
    if partition.minutes is None or minutes(request.time_limit) <= partition.minutes:
        return ok("time limit", request.time_limit)
    text = f"{request.time_limit} in {partition.name}, which allows {units.duration(60 * partition.minutes)}"
    return fail("time limit", text, "lower `time_limit` in the place")


def _disk(plan: Plan) -> Check:
    """Room for what the runs write, as far as that is known: checkpoints of training."""
    needed = sum(estimate.kept_bytes(job.config.recipe) for job in plan.jobs if isinstance(job.config, TrainingJob))
    where = plan.study.absolute()
    answer = ssh.run(plan.place.ssh, ["sh", "-c", ROOM, "sh", str(where)])
    words = answer.stdout.split()
    if len(words) < 2 or not words[1].isdecimal():
        return unknown("disk", f"df does not answer for {where}: {answer.stderr.strip()}")
    if "writable" not in words:
        return fail("disk", f"{where} cannot be written", "name an --out elsewhere, or mend its permissions")
    free = int(words[1])
    text = f"{units.bytes_(needed)} of checkpoints, {units.bytes_(free)} free for {where}"
    if needed > free:
        return fail("disk", text, "make room, name an --out elsewhere, or lower keep_checkpoints")
    return ok("disk", f"{text}; quotas were not asked")


def _test_only(batch: BatchJob, place: Place) -> Check:
    """Would Slurm take the very script? It goes in by the standard input: nothing is written."""
    what, script = "sbatch --test-only", scripts.sbatch_script(batch, place, run_directory=batch.job.logs.absolute())
    answer = ssh.run(place.ssh, ["sh", "-c", 'printf "%s\\n" "$1" | sbatch --test-only', "sh", script])
    said = (answer.stderr or answer.stdout).strip().removeprefix("sbatch: ")
    if answer.returncode == 0:
        return ok(what, said)
    return fail(
        what, said or "refused", "mend what it names in the place: account, partition, qos, time_limit, `sbatch`"
    )


#: What df has free where a directory is or would be made, under the word `Avail`, and `writable` if it is.
ROOM = """
d=$1
until [ -e "$d" ]; do d=$(dirname "$d"); done
df --output=avail -B1 -- "$d"
test -d "$d" -a -w "$d" && echo writable
"""
