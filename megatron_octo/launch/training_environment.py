"""The environment of a training job's processes: of ranks on this machine, and as bash for those elsewhere.

What is in it and why: `training/gpu_environment.py`. Jobs without GPUs, and other stages, start with what the user has.
"""

import os
import re
import shutil
import subprocess

from megatron_octo.launch.jobs import Job
from megatron_octo.training import gpu_environment
from megatron_octo.training.config import TrainingJob
from megatron_octo.training.gpu_environment import ATTENTION_SWITCHES, Variable

NVIDIA_SMI = ("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
NVIDIA_SMI_SECONDS = 10.0


def here(job: Job) -> dict[str, str]:
    """What ranks of this machine get beside what is set; nothing where there is no GPU. Asks nvidia-smi."""
    capability = _compute_capability() if isinstance(job.config, TrainingJob) else None
    if capability is None:
        return {}
    return gpu_environment.unset(_variables(job, job.ranks), os.environ, compute_capability=capability)


def require(job: Job) -> None:
    """Raises `ConfigError` for what is set here and would end the job's ranks."""
    if isinstance(job.config, TrainingJob):
        gpu_environment.require_attention_is_free(os.environ)


def reserved(job: Job) -> tuple[str, ...]:
    """Names of variables that may be unset or 1 only, wherever the job runs."""
    return ATTENTION_SWITCHES if isinstance(job.config, TrainingJob) else ()


def exports(job: Job, *, ranks: int, on_gpus: bool) -> list[str]:
    """Lines of bash that set the same on a node, whose GPUs are known only there; none for a job without GPUs."""
    if not on_gpus or not isinstance(job.config, TrainingJob):
        return []
    found = _variables(job, ranks)
    blackwell = [_export(each, each.on_blackwell) for each in found if each.on_blackwell is not None]
    return [
        "# docs/training.md says what these are for; what is set already stays.",
        *(_on_blackwell(blackwell) if blackwell else []),
        *(_export(each, each.value) for each in found),
    ]


def _variables(job: Job, ranks: int) -> tuple[Variable, ...]:
    return gpu_environment.variables(job.config.recipe.parallelism, ranks=ranks)


def _on_blackwell(lines: list[str]) -> list[str]:
    """Where nvidia-smi says nothing, the GPUs count as older."""
    return [
        f'case "$({" ".join(NVIDIA_SMI)} 2>/dev/null)" in',
        "  [1-9][0-9].*) # compute capability 10 and above: Blackwell and newer",
        *(f"    {line}" for line in lines),
        "    ;;",
        "esac",
    ]


def _export(variable: Variable, value: str) -> str:
    name = variable.name
    unless = f'[ -n "${{{variable.other_name}:-}}" ] || ' if variable.other_name is not None else ""
    return f'{unless}export {name}="${{{name}:-{value}}}"'


def _compute_capability() -> float | None:
    """Of the first GPU; None where there is none, or CUDA is shown none."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") or shutil.which(NVIDIA_SMI[0]) is None:
        return None
    try:
        answer = subprocess.run(NVIDIA_SMI, capture_output=True, text=True, check=True, timeout=NVIDIA_SMI_SECONDS)
    except (subprocess.SubprocessError, OSError):
        return None
    first = re.match(r"\d+\.\d+", answer.stdout.strip())
    return float(first[0]) if first else None
