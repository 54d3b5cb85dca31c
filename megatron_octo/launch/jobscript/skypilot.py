"""Jobs as a SkyPilot pipeline, for clouds and Kubernetes. Experimental: SkyPilot reads it (0.12.3), nothing of it has ever run.

A pipeline is a YAML file of several documents, a title and then one task after the other: `sky jobs launch FILE`. SkyPilot knows no
other dependencies, so the stages of a study run one at a time. The directory of the study must be on a volume of yours.
"""

import shlex
from collections.abc import Sequence
from typing import Any

from megatron_octo.errors import ConfigError
from megatron_octo.launch.jobscript import scripts
from megatron_octo.launch.jobscript.batch import BatchJob
from megatron_octo.launch.place import Place
from megatron_octo.rl.config import Engine, RLJob

PORT = 29500  # torchrun's own default


def pipeline(batch: Sequence[BatchJob], place: Place, *, name: str) -> str:
    """The whole file.

    Raises:
        ConfigError: the place names no accelerator; a stage needs a Ray cluster of its own or is an array.
    """
    import yaml  # not at the top: `--help` does without

    tasks = [{"name": name, "execution": "serial"}, *(_task(one, place) for one in batch)]
    return "# experimental: rendered, never run\n" + yaml.safe_dump_all(tasks, sort_keys=False, width=1 << 20)


def _task(batch: BatchJob, place: Place) -> dict[str, Any]:
    _require_simple(batch)
    container = place.container_of(batch.job.module)
    resources: dict[str, Any] = {"cpus": f"{place.cpus_per_node}+"} | dict(place.resources)
    if batch.request.gpus_per_node:
        if place.accelerator is None:
            raise ConfigError(f"{batch.job.name} needs GPUs, and SkyPilot asks by name; set accelerator: H100")
        resources["accelerators"] = f"{place.accelerator}:{batch.request.gpus_per_node}"
    if container is not None:
        resources["image_id"] = f"docker:{container.image}"
    return {
        "name": batch.name,
        "num_nodes": batch.request.nodes,
        "resources": resources,
        "run": "\n".join(
            [f"cd {shlex.quote(str(batch.directory))}", *scripts.gpu_exports(batch), _command(batch, place), ""]
        ),
    }


def _command(batch: BatchJob, place: Place) -> str:
    job, python = batch.job, shlex.quote(place.python_of(batch.job.module))
    stage = f"-m {job.module} {shlex.quote(str(job.config_file.absolute()))} {shlex.quote(str(job.out.absolute()))}"
    if batch.request.tasks == 1:
        return f"{python} {stage}"
    return (
        f"{python} -m torch.distributed.run --nnodes $SKYPILOT_NUM_NODES --node-rank $SKYPILOT_NODE_RANK "
        f"--nproc-per-node {batch.request.tasks_per_node} "
        f'--master-addr "$(head -n1 <<<"$SKYPILOT_NODE_IPS")" --master-port {PORT} {stage}'
    )


def _require_simple(batch: BatchJob) -> None:
    config = batch.job.config
    if isinstance(config, RLJob) and config.recipe.engine is Engine.OPENRLHF:
        raise ConfigError(f"{batch.job.name} is a Ray cluster of its own, which SkyPilot places do not make; use slurm")
    if batch.tasks > 1:
        raise ConfigError(f"{batch.job.name} is an array of {batch.tasks} tasks, which SkyPilot does not have; set 1")
