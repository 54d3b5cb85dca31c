"""What a job asks a cluster for: nodes, tasks, GPUs, CPUs. Arithmetic on a job and a place.

training                one task per GPU; on places without, the job's ranks spread over the nodes
RL on OpenRLHF          one task per node: each starts Ray for its node
everything else         one task
"""

from dataclasses import dataclass

from megatron_octo.conversion.config import Conversion
from megatron_octo.curation.config import Annotation, Duplicates, InParts, Refinement
from megatron_octo.errors import ConfigError
from megatron_octo.evaluation.config import Engine as EvaluationEngine
from megatron_octo.evaluation.config import Evaluation, Overlap
from megatron_octo.launch.jobs import Job
from megatron_octo.launch.place import Place
from megatron_octo.rl.config import Engine as RLEngine
from megatron_octo.rl.config import RLJob
from megatron_octo.tokenization.config import Tokenization
from megatron_octo.training.config import TrainingJob

#: Threads of a stage that does not say how many it uses (guess).
DEFAULT_CPUS = 4


@dataclass(frozen=True, kw_only=True)
class Request:
    """What one job gets."""

    nodes: int = 1
    tasks_per_node: int = 1
    #: 0 asks for none.
    gpus_per_node: int = 0
    cpus_per_task: int
    #: As sbatch takes it.
    time_limit: str
    partition: str | None

    @property
    def tasks(self) -> int:
        return self.nodes * self.tasks_per_node


def request(job: Job, place: Place, nodes: int | None) -> Request:
    """What a job asks of a place.

    Args:
        nodes: what the user asked for; None is one, or as many as the stage itself says.
    Raises:
        ConfigError: the stage does not fit so many nodes of this place.
    """
    if nodes is not None and nodes < 1:
        raise ConfigError(f"--nodes is {nodes}; it must be at least 1")
    if isinstance(job.config, TrainingJob):
        return _training(job, job.config, place, nodes or 1)
    if isinstance(job.config, RLJob) and job.config.recipe.engine is RLEngine.OPENRLHF:
        return _ray(job, job.config, place, nodes)
    if nodes not in (None, 1):
        raise ConfigError(f"{job.name} runs on one node, not {nodes}; leave --nodes out")
    gpus = min(_gpus(job.config), place.gpus_per_node)
    return Request(
        gpus_per_node=gpus,
        cpus_per_task=_cpus(job, place, gpus),
        time_limit=place.time_limit,
        partition=place.partition if gpus else place.cpu_partition or place.partition,
    )


def _training(job: Job, config: TrainingJob, place: Place, nodes: int) -> Request:
    if place.gpus_per_node:
        tasks = place.gpus_per_node
        config.recipe.num_microbatches(nodes * tasks)
    else:
        tasks, left = divmod(job.ranks, nodes)
        if left:
            raise ConfigError(
                f"{job.ranks} ranks of {job.name} do not spread evenly over {nodes} nodes; ask for a number of nodes that divides "
                f"{job.ranks}"
            )
        if tasks > place.cpus_per_node:
            raise ConfigError(
                f"{tasks} ranks of {job.name} per node on {place.cpus_per_node} CPUs; ask for {-(-job.ranks // place.cpus_per_node)} "
                "nodes or more"
            )
    return Request(
        nodes=nodes,
        tasks_per_node=tasks,
        gpus_per_node=place.gpus_per_node,
        cpus_per_task=max(1, place.cpus_per_node // tasks),
        time_limit=place.time_limit,
        partition=place.partition,
    )


def _ray(job: Job, config: RLJob, place: Place, nodes: int | None) -> Request:
    placement = config.recipe.placement
    assert placement is not None, "RL on OpenRLHF has one"
    if nodes not in (None, placement.nodes):
        raise ConfigError(
            f"{job.name} is placed on {placement.nodes} nodes, and --nodes is {nodes}; set placement.nodes={nodes}, or leave --nodes out"
        )
    if placement.gpus_per_node > place.gpus_per_node:
        raise ConfigError(
            f"{job.name} wants {placement.gpus_per_node} GPUs per node and this place has {place.gpus_per_node}; set "
            "placement.gpus_per_node and placement.nodes"
        )
    return Request(
        nodes=placement.nodes,
        gpus_per_node=placement.gpus_per_node,
        cpus_per_task=place.cpus_per_node * placement.gpus_per_node // place.gpus_per_node,
        time_limit=place.time_limit,
        partition=place.partition,
    )


def _gpus(config: object) -> int:
    """GPUs of a stage that runs in one process."""
    if isinstance(config, Evaluation):
        return 0 if config.engine is EvaluationEngine.SERVER else 1
    if isinstance(config, (Annotation, Refinement)):
        return config.model.gpus if config.model.vllm is not None else 0
    return 1 if isinstance(config, RLJob) else 0


def _cpus(job: Job, place: Place, gpus: int) -> int:
    """A share of the node as large as that of its GPUs, or what the stage's workers use."""
    if gpus:
        return max(1, place.cpus_per_node * gpus // place.gpus_per_node)
    workers = (
        job.config.workers
        if isinstance(job.config, (Conversion, Overlap, Tokenization, InParts, Duplicates))
        else DEFAULT_CPUS
    )
    return min(workers, place.cpus_per_node)
