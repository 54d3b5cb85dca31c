"""`megatron-octo doctor`: what this machine has for each stage. Looks packages up without importing them."""

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from megatron_octo import units
from megatron_octo.errors import ResourceError

INSTALL = "pip install 'megatron-octo[cpu]'"

#: What each stage's process imports; all of it comes with the extra `cpu`.
STAGES = {
    "megatron_octo.curation.run": (),
    "megatron_octo.tokenization.train_tokenizer": ("tokenizers", "pyarrow", "numpy"),
    "megatron_octo.tokenization.run": ("tokenizers", "pyarrow", "numpy"),
    "megatron_octo.training.run": ("torch", "megatron-core", "psutil"),
    "megatron_octo.conversion.run": ("torch", "safetensors", "transformers"),
    "megatron_octo.rl.run": ("torch", "transformers", "trl", "datasets", "math-verify", "pebble"),
    "megatron_octo.evaluation.run": ("torch", "transformers", "math-verify", "pebble"),
    "megatron_octo.plotting.run": ("matplotlib", "jinja2"),
}
#: The machine the tiny study is made for; docs/measurements.md says what it used.
STUDY_GIB = 8
STUDY_FREE_BYTES = 2 * units.B


def examine(directory: Path) -> tuple[str, bool]:
    """A report and whether every stage can run."""
    lines = [f"python {platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores"]
    healthy = sys.version_info >= (3, 11)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lines.append(
        _line(
            "memory",
            memory >= 0.9 * STUDY_GIB * units.GIB,
            f"{memory / units.GIB:.1f} GiB, the tiny study asks for {STUDY_GIB}",
        )
    )
    free = shutil.disk_usage(directory).free
    lines.append(_line("disk", free >= STUDY_FREE_BYTES, f"{units.bytes_(free)} free in {directory.name or directory}"))
    for module, packages in STAGES.items():
        missing = _missing(packages)
        found = ", ".join(f"{package} {_version(package)}" for package in packages if package not in missing)
        stage = module.removeprefix("megatron_octo.").removesuffix(".run")
        lines.append(_line(stage, not missing, f"missing {', '.join(missing)}; {INSTALL}" if missing else found))
        healthy = healthy and not missing
    return "\n".join(lines), healthy


def require(module: str) -> None:
    """Raises `ResourceError` when a stage's process would not find its packages."""
    missing = _missing(STAGES.get(module, ()))
    if missing:
        raise ResourceError(f"{module} needs {', '.join(missing)}, not installed; {INSTALL}")


def _missing(packages: Sequence[str]) -> list[str]:
    return [package for package in packages if _version(package) is None]


def _line(what: str, good: bool, text: str) -> str:
    return f"{'ok  ' if good else 'LACK'} {what:<28} {text}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
