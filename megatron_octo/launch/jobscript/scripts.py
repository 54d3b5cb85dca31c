"""A batch job as text: three small bash files in its folder of logs.

    LOGS/job.sbatch     the batch script, byte for byte as NeMo-Run 0.11 writes it
    LOGS/setup.sh       what the batch script sources before its srun: checks, environment, and the end of every session
    LOGS/rank.sh        what each task of the srun runs: one process of the stage

All paths in them are absolute. Nothing in them is secret: the environment file is named, not read.
"""

import dataclasses
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from megatron_octo import config
from megatron_octo.launch import training_environment
from megatron_octo.launch.jobs import Job
from megatron_octo.launch.jobscript.batch import RUNDIR, BatchJob
from megatron_octo.launch.place import Container, Place, Restart
from megatron_octo.process import EXIT_USER_ERROR
from megatron_octo.rl.config import Engine, RLJob
from megatron_octo.training.config import TrainingJob

SETUP_BODY = Path(__file__).with_name("setup.sh.in")
#: Slurm kills what is left of a step so long after its first task has left; NeMo-Run's value.
WAIT_SECONDS = 60


def write(batch: BatchJob, place: Place) -> None:
    """The job's files, its config among them. Jobs that run now keep those they started with."""
    logs = batch.job.logs.absolute()
    (logs / "code").mkdir(parents=True, exist_ok=True)  # NeMo-Run's batch scripts start there
    for folder, settings in _configs(batch):
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / "config.json", config.dumps(settings))
    _replace(logs / "rank.sh", rank_script(batch, place))
    _replace(logs / "setup.sh", setup_script(batch, place))
    _replace(batch.script, sbatch_script(batch, place, run_directory=logs))


def _replace(file: Path, text: str) -> None:
    """A new file under the old name: bash reads a script while it runs it."""
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, file)


def forget(batch: BatchJob) -> None:
    """Remove what an earlier submission noted about its end."""
    for folder, _ in _configs(batch):
        for name in ("progress", "verdict", "cancelled"):
            (folder / name).unlink(missing_ok=True)


def _configs(batch: BatchJob) -> list[tuple[Path, object]]:
    """The config of every task of an array, in the folder that its setup.sh takes; else the one config."""
    logs = batch.job.logs.absolute()
    if batch.tasks == 1:
        return [(logs, batch.job.config)]
    tasks = (dataclasses.replace(batch.job.config, task=task) for task in range(batch.tasks))
    return [(logs, batch.job.config), *((logs / f"task{each.task:05d}", each) for each in tasks)]


def rank_script(batch: BatchJob, place: Place) -> str:
    """What one task of the srun runs."""
    job = batch.job
    is_ray = isinstance(job.config, RLJob) and job.config.recipe.engine is Engine.OPENRLHF
    ranks = (
        "# Slurm's words for what torch.distributed asks; MASTER_ADDR and MASTER_PORT come from setup.sh.\n"
        'export RANK="$SLURM_PROCID" LOCAL_RANK="$SLURM_LOCALID" WORLD_SIZE="$SLURM_NTASKS"'
        if batch.request.tasks > 1 and not is_ray
        else "unset RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR MASTER_PORT"
    )
    python = shlex.quote(place.python_of(job.module))
    # In an image there is no scontrol to tell which node is the first.
    head = '--head "$MEGATRON_OCTO_HEAD" ' if place.container_of(job.module) else ""
    ray = f'{python} -m megatron_octo.rl.ray_stage {head}--logs "$MEGATRON_OCTO_SESSION" -- ' if is_ray else ""
    exports = "".join(f"{line}\n" for line in gpu_exports(batch))
    return f"""#!/usr/bin/env bash
# One task of the srun in job.sbatch: a process of the stage {job.name}.
cd {shlex.quote(str(batch.directory))} || exit
[ "${{1:-}}" != check ] || exec {python} -m megatron_octo.launch.node.check "$MEGATRON_OCTO_SESSION/nodes" \\
  --hosts "$MEGATRON_OCTO_HOSTS" --gpus-per-node {batch.request.gpus_per_node}
exec >>"$MEGATRON_OCTO_SESSION/rank${{SLURM_PROCID}}.log" 2>&1
[ "$SLURM_PROCID" -ne 0 ] || {python} -m megatron_octo.launch.provenance "$MEGATRON_OCTO_SESSION"
{ranks}
export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-1}}" TOKENIZERS_PARALLELISM=false
{exports}trap : TERM INT USR1 # the process has got the signal too, and may need a while to save
{ray}{python} -m {job.module} "${{MEGATRON_OCTO_SESSION%/*}}/config.json" {shlex.quote(str(job.out.absolute()))}
code=$?
[ "$code" -eq 0 ] || echo "$code" >"$MEGATRON_OCTO_SESSION/rank${{SLURM_PROCID}}.exit"
exit "$code"
"""


def gpu_exports(batch: BatchJob) -> list[str]:
    """Lines of bash for what training starts with on GPUs."""
    request = batch.request
    return training_environment.exports(batch.job, ranks=request.tasks, on_gpus=request.gpus_per_node > 0)


def setup_script(batch: BatchJob, place: Place) -> str:
    """What the batch script sources before its srun."""
    job = batch.job
    settings = {
        "name": job.name,
        "out": str(job.out.absolute()),
        "logs": str(job.logs.absolute()),
        "restart": place.restart.value,
        "retries": str(place.retries),
        # A task of an array does a share of the stage; other jobs know themselves what is left to do.
        "ends_by": "exit" if job.always_starts or batch.tasks > 1 else "mark",
        "advances": _advances(job),
        # OpenRLHF's own failures have that code too.
        "refusal": "" if _advances(job) == "openrlhf" else str(EXIT_USER_ERROR),
    }
    needs = " ".join(shlex.quote(f"{name}={out}") for name, out in batch.needs.items())
    lines = [f"octo_{name}={shlex.quote(value)}" for name, value in settings.items()]
    lines += [
        f"octo_environment_file={_environment_file(place)}",
        f"octo_needs=({needs})",
        f"octo_reserved=({' '.join(training_environment.reserved(job))})",
        f"octo_check=({_quoted(_check_options(batch, place))})",
    ]
    # First of all: the batch script writes down all it reads and runs, and what follows may hold secrets.
    return "\n".join(["{ set +vx; } 2>/dev/null", *lines, SETUP_BODY.read_text()])


def _check_options(batch: BatchJob, place: Place) -> list[str]:
    """What follows srun to look at the nodes before a stage of several tasks; none for others."""
    if batch.request.tasks == 1 or not place.checks_nodes:
        return []
    container = place.container_of(batch.job.module)
    inside = _container_options(batch, container, batch.job.logs.absolute()) if container else []
    return [*inside, *place.srun, *command(batch).split(), "check"]


def _quoted(words: Sequence[str]) -> str:
    """Words of a bash array. `BatchJob`s have none with a quote in it; bare commas look like a mistake there."""
    return " ".join(f"'{word}'" for word in words)


def _environment_file(place: Place) -> str:
    """A word of bash; `~` is the home on the nodes."""
    if place.environment_file is None:
        return "''"
    first, *rest = place.environment_file.parts
    return (
        '"$HOME"/' + shlex.quote("/".join(rest))
        if first == "~"
        else shlex.quote(str(place.environment_file.absolute()))
    )


def _advances(job: Job) -> str:
    """The directory below OUT where a stage leaves what it goes on from; `files` for all it makes."""
    if isinstance(job.config, TrainingJob):
        return "checkpoints"
    if isinstance(job.config, RLJob):
        return "checkpoints" if job.config.recipe.engine is Engine.TRL else "openrlhf"
    return "files"


def sbatch_options(batch: BatchJob, place: Place) -> dict[str, str | int | bool]:
    """Options of sbatch by NeMo-Run's names; True is an option without a value."""
    request = batch.request
    given: dict[str, str | int | bool | None] = {
        "account": place.account,
        "array": f"0-{batch.tasks - 1}" if batch.tasks > 1 else None,
        "cpus_per_task": request.cpus_per_task,
        "gpus_per_node": request.gpus_per_node or None,
        "job_name": f"{batch.study}.{batch.name}",
        "kill_on_invalid_dep": "yes",
        "no_requeue" if place.restart is not Restart.REQUEUE else "requeue": True,
        "nodes": request.nodes,
        "ntasks_per_node": request.tasks_per_node,
        "open_mode": "append",
        "partition": request.partition,
        "qos": place.qos,
        "signal": f"TERM@{place.signal_seconds}",
        "time": request.time_limit,
    }
    extra = {name.replace("-", "_"): value for name, value in place.sbatch.items()}
    return {name: value for name, value in given.items() if value is not None} | extra


def srun_options(place: Place) -> list[str]:
    """The last of two equal options counts: ranks of a large run do not all end their saving within NeMo-Run's minute."""
    return [f"--wait={max(WAIT_SECONDS, place.save_seconds)}", *place.srun]


def container_mounts(batch: BatchJob, container: Container) -> list[str]:
    """The place's mounts, and our directories at their own paths where none of these holds them."""
    held = [Path(mount.split(":")[1]) for mount in container.mounts if len(set(mount.split(":")[:2])) == 1]
    ours = (path for path in batch.mounts if not any(path.is_relative_to(parent) for parent in held))
    return [*container.mounts, *(f"{path}:{path}" for path in ours)]


def command(batch: BatchJob) -> str:
    return f"bash {batch.job.logs.absolute() / 'rank.sh'}"


def setup_lines(batch: BatchJob) -> str:
    return f"source {batch.job.logs.absolute() / 'setup.sh'}"


def sbatch_script(batch: BatchJob, place: Place, *, run_directory: Path) -> str:
    """The batch script in NeMo-Run's form.

    Args:
        run_directory: NeMo-Run's own folder for the job, with its `code`.
    """
    logs, options = batch.job.logs.absolute(), sbatch_options(batch, place)
    name = options["job_name"]
    number = "%A_%a" if batch.tasks > 1 else "%j"
    options["output"] = f"{logs}/sbatch_{name}_{number}.out"
    flags = "\n".join(_flag(key, options[key]) for key in sorted(options))
    container = place.container_of(batch.job.module)
    where = _container_options(batch, container, run_directory) if container else ["--chdir", f"{run_directory}/code"]
    srun = " ".join(
        [
            "srun", "--output", f"{logs}/log-{name}_%j_${{SLURM_RESTART_COUNT:-0}}.out", *where,
            f"--wait={WAIT_SECONDS}", "--kill-on-bad-exit=1", *srun_options(place), command(batch),
        ]
    )  # fmt: skip
    return TEMPLATE.format(flags=flags, setup=setup_lines(batch), srun=srun)


def _container_options(batch: BatchJob, container: Container, run_directory: Path) -> list[str]:
    mounts = [*container_mounts(batch, container), f"{run_directory}:{RUNDIR}"]
    words = ["--container-image", container.image, "--container-mounts", ",".join(mounts)]
    words += ["--container-workdir", f"{RUNDIR}/code"]
    return [*words, "--container-env", ",".join(container.env)] if container.env else words


def _flag(key: str, value: str | int | bool) -> str:
    option = f"#SBATCH --{key.replace('_', '-')}"
    return option if value is True else f"{option}={shlex.quote(str(value))}"


#: NeMo-Run 0.11.1, core/execution/templates/slurm.sh.j2, for one command and without the options we never use.
TEMPLATE = """\
#!/bin/bash
#
# Generated by NeMo Run
# Run with: sbatch --requeue --parsable
#

# Parameters
{flags}

set -evx

export PYTHONUNBUFFERED=1
export SLURM_UNBUFFEREDIO=1
export TORCHX_MAX_RETRIES=0

set +e

# setup

nodes=( $( scontrol show hostnames $SLURM_JOB_NODELIST ) )
nodes_array=($nodes)
head_node=${{nodes_array[0]}}
head_node_ip=$(srun --nodes=1 --ntasks=1 -w "$head_node" hostname --ip-address)

{setup}


# Command 1

{srun}

exitcode=$?

set -e

echo "job exited with code $exitcode"
if [ $exitcode -ne 0 ]; then
    if [ "$TORCHX_MAX_RETRIES" -gt "${{SLURM_RESTART_COUNT:-0}}" ]; then
        scontrol requeue "$SLURM_JOB_ID"
    fi
    exit $exitcode
fi"""
