"""What a study will take before anything starts: its graph, hours, GPU-hours, disk and price. Nothing is written, asked or started.

Numbers come from the estimators that `show` uses; a stage without one says so, and totals name what is not in them.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from megatron_octo import artifacts, config
from megatron_octo.launch.explain.training import DERIVED_ORIGIN
from megatron_octo.launch.jobs import Job
from megatron_octo.launch.jobscript import requests
from megatron_octo.launch.jobscript.requests import Request
from megatron_octo.launch.place import Place, Restart, minutes
from megatron_octo.launch.plan import costs
from megatron_octo.training.config import TrainingJob
from megatron_octo.units import counted


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """One stage. None: there is no estimate."""

    name: str
    needs: tuple[str, ...]
    #: It is done: it takes nothing any more.
    done: bool
    #: What it runs on, in words.
    on: str
    gpus: int
    seconds: float | None
    gpu_hours: float | None
    #: From the start of the first stage to the end of this one, without waiting in queues and without what is not estimated.
    ends_after_seconds: float
    #: Time limits that `seconds` are; None where there is no limit.
    sessions: int | None
    disk_bytes: int | None
    passing_bytes: int
    remark: str
    #: Resolved, as the stage's process will get it.
    config: Any
    #: The chain of stages that ends with it latest.
    path: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study before it starts."""

    stages: tuple[PlannedStage, ...]
    #: The chain of stages that takes longest, as far as times are known: without them, of most stages.
    critical_path: tuple[str, ...]
    seconds: float
    gpu_hours: float
    #: None without a price.
    cost: float | None
    price_per_gpu_hour: float | None
    #: As the place says it, and how many such a stage may take; None for any number.
    time_limit: str | None
    sessions_allowed: int | None
    #: What stays, and the most that is there at a time if all corpora are shuffled at once.
    disk_bytes: int
    peak_bytes: int
    #: Stages without an estimate: they are in no total.
    without_time: tuple[str, ...]
    without_disk: tuple[str, ...]
    #: What times of training rest on.
    throughput: str


def plan(jobs: Sequence[Job], place: Place | None, nodes: int | None, *, throughput: float | None = None) -> Plan:
    """The plan of jobs in an order that respects what needs what.

    Args:
        place: None is this machine.
        nodes: of training.
        throughput: of training, tokens per second and GPU; None takes a derived one.
    Raises:
        ConfigError: a job does not fit the place.
        ArtifactError: a stage's mark cannot be read.
    """
    known = costs.facts(jobs)
    stages: list[PlannedStage] = []
    for job in jobs:
        began = _last([stage for stage in stages if stage.name in job.needs])
        stages.append(_stage(job, place, nodes if _takes_nodes(job, jobs) else None, known, throughput, began))
    last = _last(stages)
    price = place.price_per_gpu_hour if place is not None else None
    gpu_hours = sum(stage.gpu_hours or 0.0 for stage in stages)
    disk = sum(stage.disk_bytes or 0 for stage in stages)
    shards = sum((stage.disk_bytes or 0) + stage.passing_bytes for stage in stages if stage.passing_bytes)
    return Plan(
        stages=tuple(stages),
        critical_path=last.path if last is not None else (),
        seconds=last.ends_after_seconds if last is not None else 0.0,
        gpu_hours=gpu_hours,
        cost=None if price is None else gpu_hours * price,
        price_per_gpu_hour=price,
        time_limit=None if place is None else place.time_limit,
        sessions_allowed=None if place is None else _sessions_allowed(place),
        disk_bytes=disk,
        peak_bytes=max(disk, shards),
        without_time=tuple(stage.name for stage in stages if stage.seconds is None),
        without_disk=tuple(stage.name for stage in stages if stage.disk_bytes is None),
        throughput=DERIVED_ORIGIN.replace("\n", " ") if throughput is None else "as stated",
    )


def needed_bytes(jobs: Sequence[Job]) -> int:
    """Disk that jobs will fill, as far as it can be told: what must be free before they start."""
    return plan(jobs, None, None).peak_bytes


def as_json(planned: Plan) -> str:
    return json.dumps(config.to_dict(planned), indent=2)


def _takes_nodes(job: Job, jobs: Sequence[Job]) -> bool:
    """`--nodes` is of training, or of the only job; the other stages know themselves."""
    return len(jobs) == 1 or isinstance(job.config, TrainingJob)


def _stage(
    job: Job,
    place: Place | None,
    nodes: int | None,
    known: costs.Facts,
    throughput: float | None,
    last: PlannedStage | None,
) -> PlannedStage:
    """A stage that begins when the last of those it needs has ended."""
    request = requests.request(job, place, nodes) if place is not None else None
    gpus = request.nodes * request.gpus_per_node if request is not None else 0
    done = not job.always_starts and artifacts.is_done(job.out)
    cost = costs.cost(job, request, known, throughput=throughput)
    if done:
        cost = costs.Cost(seconds=0.0, disk_bytes=0, remark="done")
    return PlannedStage(
        name=job.name,
        needs=job.needs,
        done=done,
        on=_on(job, request),
        gpus=gpus,
        seconds=cost.seconds,
        gpu_hours=_gpu_hours(gpus, cost.seconds),
        ends_after_seconds=(last.ends_after_seconds if last is not None else 0.0) + (cost.seconds or 0.0),
        path=(*(last.path if last is not None else ()), job.name),
        sessions=_sessions(cost.seconds, place),
        disk_bytes=cost.disk_bytes,
        passing_bytes=cost.passing_bytes,
        remark=cost.remark,
        config=config.to_dict(job.config),
    )


def _on(job: Job, request: Request | None) -> str:
    if request is None:
        return counted(job.ranks, "rank")
    tasks = getattr(job.config, "tasks", 1)
    array = f"{tasks} tasks x " if tasks > 1 else ""
    if not request.gpus_per_node:
        return array + counted(request.tasks * request.cpus_per_task, "CPU")
    nodes = f"{request.nodes} nodes x " if request.nodes > 1 else ""
    return array + nodes + counted(request.gpus_per_node, "GPU")


def _gpu_hours(gpus: int, seconds: float | None) -> float | None:
    """None for GPUs held for a time that is not known."""
    if gpus == 0:
        return 0.0
    return None if seconds is None else gpus * seconds / 3600


def _sessions(seconds: float | None, place: Place | None) -> int | None:
    if seconds is None or place is None:
        return None
    return math.ceil(seconds / (minutes(place.time_limit) * 60 - place.signal_seconds))


def _sessions_allowed(place: Place) -> int | None:
    return {Restart.REQUEUE: None, Restart.CHAIN: place.copies, Restart.NEVER: 1}[place.restart]


def _last(stages: Sequence[PlannedStage]) -> PlannedStage | None:
    """The one that ends latest; of those that end at once as far as is known, the one after most others."""
    return max(stages, default=None, key=lambda stage: (stage.ends_after_seconds, len(stage.path)))
