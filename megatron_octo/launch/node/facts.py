"""What one node says about itself: GPUs, network ports, /dev/shm, versions. Standard library only; a fraction of a second."""

import importlib.metadata
import platform
import resource
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_octo import artifacts, units

SHM = Path("/dev/shm")  # noqa: S108 - it is what we look at
#: Its first line is the version of the kernel module.
KERNEL_DRIVER = Path("/proc/driver/nvidia/version")
INFINIBAND = Path("/sys/class/infiniband")
#: A driver that hangs is a finding, and must not hang us.
NVIDIA_SMI_SECONDS = 30.0
GPU_FIELDS = ("index", "name", "memory.used", "ecc.errors.uncorrected.volatile.total")
#: Asked apart: old drivers do not know them, or new ones not any more, and refuse the whole question.
SLOWDOWN_FIELDS = ("index", "clocks_throttle_reasons.hw_slowdown")
REMAP_FIELDS = ("gpu_bus_id", "remapped_rows.failure")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU as nvidia-smi sees it."""

    index: int
    name: str
    used_bytes: int
    #: Since the driver was loaded; None where it does not count them.
    uncorrected_errors: int | None
    #: Its clocks are held down by heat or power.
    slowed: bool = False


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One node."""

    host: str
    versions: dict[str, str]
    gpus: tuple[Gpu, ...]
    #: Why nvidia-smi said nothing, where it is installed.
    gpu_trouble: str | None
    #: GPUs that have run out of rows to replace broken ones with.
    gpus_worn_out: int
    shm_free_bytes: int
    #: InfiniBand or RoCE ports that are up, such as `mlx5_0/1`.
    active_ports: tuple[str, ...]
    #: Bytes a process may pin, which RDMA does; None is no limit.
    lockable_bytes: int | None


def collect(host: str) -> Facts:
    """The facts of this node."""
    gpus, trouble = _gpus()
    return Facts(
        host=host,
        versions=_versions(),
        gpus=gpus,
        gpu_trouble=trouble,
        gpus_worn_out=_worn_out() if gpus else 0,
        shm_free_bytes=shutil.disk_usage(SHM).free if SHM.exists() else 0,
        active_ports=active_ports(INFINIBAND),
        lockable_bytes=_lockable_bytes(),
    )


def node_name(environment: Mapping[str, str]) -> str:
    """As Slurm calls this node, which is what `--exclude` takes."""
    return environment.get("SLURMD_NODENAME") or platform.node()


def active_ports(directory: Path) -> tuple[str, ...]:
    """RDMA ports that are up. The kernel writes `4: ACTIVE`."""
    states = sorted(directory.glob("*/ports/*/state"))
    return tuple(f"{file.parts[-4]}/{file.parts[-2]}" for file in states if "ACTIVE" in file.read_text())


def parse_gpus(rows: Sequence[Sequence[str]], slowdowns: Sequence[Sequence[str]] = ()) -> tuple[Gpu, ...]:
    """Rows of nvidia-smi in the order of `GPU_FIELDS` and `SLOWDOWN_FIELDS`; memory in MiB, `[N/A]` for what it does not know."""
    slowed = {row[0] for row in slowdowns if row[1] == "Active"}
    return tuple(
        Gpu(
            index=int(index),
            name=name,
            used_bytes=int(used) * units.MIB if used.isdecimal() else 0,
            uncorrected_errors=int(errors) if errors.isdecimal() else None,
            slowed=index in slowed,
        )
        for index, name, used, errors in rows
    )


def _gpus() -> tuple[tuple[Gpu, ...], str | None]:
    """The GPUs, and why there is no answer."""
    if shutil.which("nvidia-smi") is None:
        return (), None
    try:
        rows = _ask_nvidia_smi("gpu", GPU_FIELDS)
    except (subprocess.SubprocessError, OSError) as error:
        return (), f"nvidia-smi does not answer: {getattr(error, 'stdout', None) or error}".strip()
    return parse_gpus(rows, _nvidia_smi("gpu", SLOWDOWN_FIELDS)), None


def _worn_out() -> int:
    return sum(row[-1].lower() == "yes" for row in _nvidia_smi("remapped-rows", REMAP_FIELDS))


def _nvidia_smi(what: str, fields: Sequence[str]) -> list[list[str]]:
    """No rows where the driver does not know what is asked."""
    try:
        return _ask_nvidia_smi(what, fields)
    except (subprocess.SubprocessError, OSError):
        return []


def _ask_nvidia_smi(what: str, fields: Sequence[str]) -> list[list[str]]:
    command = ["nvidia-smi", f"--query-{what}={','.join(fields)}", "--format=csv,noheader,nounits"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=NVIDIA_SMI_SECONDS)
    return [[word.strip() for word in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]


def _versions() -> dict[str, str]:
    found = artifacts.versions() | {"kernel architecture": platform.machine()}
    for package in ("nvidia-nccl-cu12", "nvidia-nccl-cu13"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if KERNEL_DRIVER.exists():
        found["nvidia driver"] = KERNEL_DRIVER.read_text().splitlines()[0]
    return found


def _lockable_bytes() -> int | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if soft == resource.RLIM_INFINITY else soft
