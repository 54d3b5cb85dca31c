"""`megatron-octo doctor`: what this machine has for each stage. Looks packages up without importing them."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from megatron_octo import compatibility, packages, units
from megatron_octo.config import dumps
from megatron_octo.errors import ConfigError, nearest
from megatron_octo.rl.config import RLJob
from megatron_octo.training import estimate
from megatron_octo.training.activations import Modules
from megatron_octo.training.config import MidTraining
from megatron_octo.training.memory import memory

#: The machine the tiny study is made for; docs/measurements.md says what it used.
STUDY_GIB = 8
STUDY_FREE_BYTES = 2 * units.B
#: Of a GPU whose tensor cores multiply fp8: Ada 8.9, Hopper 9.0, Blackwell 10.0.
FP8_CAPABILITY = 8.9
NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,compute_cap,memory.total,driver_version", "--format=csv,noheader,nounits")
NVIDIA_SMI_SECONDS = 10.0
#: Of torch's CUDA 13 and CUDA 12 builds.
NCCL = ("nvidia-nccl-cu13", "nvidia-nccl-cu12")


def examine(directory: Path, *, stages: Sequence[str] = ()) -> tuple[str, bool]:
    """A report, and whether every stage can run; or, where `stages` are named, whether those can.

    Raises `ConfigError` for a stage that is none.
    """
    wanted = [_module(stage) for stage in stages] or list(packages.STAGES)
    wrong = compatibility.conflicts(compatibility.installed())
    lines = [
        f"python {platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores",
        *_machine(directory),
        *(_line("environment", False, conflict) for conflict in wrong),
        *(_stage(module, needed=module in wanted) for module in (*packages.STAGES, *packages.ELSEWHERE)),
    ]
    lacking = [module for module in wanted if packages.missing(packages.needs(module)[0])]
    return "\n".join(lines), sys.version_info >= (3, 11) and not wrong and not lacking


def _machine(directory: Path) -> list[str]:
    has, free = _memory_bytes(), shutil.disk_usage(directory).free
    memory_text = f"{has / units.GIB:.1f} GiB, the tiny study asks for {STUDY_GIB}"
    return [
        _line("memory", has >= 0.9 * STUDY_GIB * units.GIB, memory_text),
        _line("disk", free >= STUDY_FREE_BYTES, f"{units.bytes_(free)} free in {directory.name or directory}"),
        *describe_gpus(_nvidia_smi(), transformer_engine=packages.version("transformer-engine"), nccl=_nccl()),
    ]


def _stage(module: str, *, needed: bool) -> str:
    wanted, how = packages.needs(module)
    missing = packages.missing(wanted)
    if missing and module in packages.ELSEWHERE and not needed:
        return _line(_short(module), None, how)
    if missing:
        return _line(_short(module), False if needed else None, f"missing {', '.join(missing)}; {how}")
    found = ", ".join(f"{package} {packages.version(package)}" for package in wanted)
    return _line(_short(module), True, "here" if module in packages.ELSEWHERE else found)


def _short(module: str) -> str:
    return module.removeprefix("megatron_octo.").removesuffix(".run")


def _module(stage: str) -> str:
    modules = {_short(module): module for module in (*packages.STAGES, *packages.ELSEWHERE)}
    if stage not in modules:
        raise ConfigError(f"no stage is called {stage}{nearest(stage, modules)}")
    return modules[stage]


def examine_recipe(recipe: MidTraining, directory: Path, *, ranks: int | None) -> tuple[str, bool]:
    """Whether this machine's memory and disk hold a phase on `ranks` ranks (None: one per GPU, or one); a report, and the answer."""
    gpus = _gpus(_nvidia_smi())
    world = ranks or len(gpus) or 1
    per_rank = int(gpus[0][2]) * units.MIB if gpus else _memory_bytes() // world
    return describe_fit(
        recipe, ranks=world, per_rank_bytes=per_rank, on_gpu=bool(gpus), free_bytes=shutil.disk_usage(directory).free
    )


def describe_fit(
    recipe: MidTraining, *, ranks: int, per_rank_bytes: int, on_gpu: bool, free_bytes: int
) -> tuple[str, bool]:
    """The same on a machine of which these numbers are known. Raises `ConfigError` when the ranks do not divide."""
    needed = memory(recipe, ranks, modules=None if on_gpu else Modules.LOCAL)
    parts = ", ".join(
        f"{what} {units.bytes_(size)}"
        for what, size in (
            ("weights", needed.weights),
            ("gradients", needed.gradients),
            ("optimizer", needed.optimizer),
            ("activations", needed.activations.total),
        )
    )
    stay, checkpoints = estimate.kept_checkpoints(recipe), estimate.kept_bytes(recipe)
    fits, room = needed.total <= per_rank_bytes, checkpoints <= free_bytes
    where = "GPU" if on_gpu else "rank"
    lines = [
        f"{recipe.name} on {units.counted(ranks, 'rank')}",
        _line(
            "its memory",
            fits,
            f"{units.bytes_(needed.total)} on the fullest {where}, {units.bytes_(per_rank_bytes)} are there: {parts}",
        ),
        _line(
            "its checkpoints",
            room,
            f"{units.bytes_(checkpoints)} for {stay} of {units.bytes_(estimate.checkpoint_bytes(recipe))}, "
            f"{units.bytes_(free_bytes)} are free",
        ),
    ]
    return "\n".join(lines), fits and room


def describe_gpus(listing: str, *, transformer_engine: str | None, nccl: str | None) -> list[str]:
    """What training can use of this machine; none of it is asked for, the tiny study runs without.

    Args:
        listing: a line `NAME, COMPUTE_CAPABILITY, MEMORY_MIB, DRIVER` per GPU.
        transformer_engine: its version, None where it is not installed.
        nccl: the version of its package; None where torch brings its own or there is none.
    """
    gpus = _gpus(listing)
    if not gpus:
        return [_line("gpu", None, "none: training runs on the CPU, in fp32 or bf16")]
    name, capability, mebibytes, driver = gpus[0]
    found = f"{len(gpus)} x {name}, {int(mebibytes) * units.MIB / units.GIB:.0f} GiB, compute capability {capability}, driver {driver}"
    found += f", NCCL {nccl}" if nccl is not None else ""
    return [_line("gpu", True, found), _line("precision fp8", *_fp8(float(capability), transformer_engine))]


def _gpus(listing: str) -> list[list[str]]:
    """Name, compute capability, MiB and driver of each GPU."""
    return [line.rsplit(", ", 3) for line in listing.splitlines() if line.strip()]


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _fp8(capability: float, transformer_engine: str | None) -> tuple[bool | None, str]:
    if capability < FP8_CAPABILITY:
        return None, f"these GPUs cannot: it takes compute capability {FP8_CAPABILITY}"
    if transformer_engine is None:
        return None, "missing transformer-engine, which the GPU image has; fp32 and bf16 train without it"
    return True, f"transformer-engine {transformer_engine}"


def _nccl() -> str | None:
    return next((found for package in NCCL if (found := packages.version(package)) is not None), None)


def _nvidia_smi() -> str:
    """Empty where there is no driver, or one that does not answer."""
    if shutil.which(NVIDIA_SMI[0]) is None:
        return ""
    try:
        return subprocess.run(NVIDIA_SMI, capture_output=True, text=True, check=True, timeout=NVIDIA_SMI_SECONDS).stdout
    except (subprocess.SubprocessError, OSError):
        return ""


def preflight(job: RLJob, out: Path, *, prompts: int) -> bool:
    """Whether an RL job passes every check of `rl/preflight.py`, which runs as a process and prints a line per check."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "job.json"
        file.write_text(dumps(job))
        command = [
            sys.executable,
            "-m",
            "megatron_octo.rl.preflight",
            str(file),
            "--out",
            str(out),
            "--probe",
            str(prompts),
        ]
        return subprocess.run(command, check=False).returncode == 0


def _line(what: str, good: bool | None, text: str) -> str:
    """None: not there, and not needed."""
    return f"{'-   ' if good is None else 'ok  ' if good else 'LACK'} {what:<28} {text}"
