"""`megatron-octo doctor`: what this machine has for each stage. Looks packages up without importing them."""

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path

from megatron_octo import units
from megatron_octo.launch.local import available_cores

#: Packages per stage; all are in the extra `cpu`.
STAGES = {
    "curate, tokenize": ("tokenizers", "pyarrow", "numpy"),
    "train": ("torch", "megatron-core", "psutil"),
    "convert": ("torch", "safetensors", "transformers"),
    "rl": ("torch", "transformers", "trl", "datasets", "math-verify", "pebble"),
    "eval": ("torch", "transformers", "math-verify", "pebble"),
    "plot": ("matplotlib", "jinja2"),
}
#: What the tiny study was measured to need (docs/measurements.md), rounded up.
STUDY_GIB = 8
STUDY_FREE_BYTES = 2 * units.B


def examine(directory: Path) -> tuple[str, bool]:
    """A report and whether every stage can run."""
    lines = [f"python {platform.python_version()} on {platform.machine()}, {available_cores()} cores"]
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
    for stage, packages in STAGES.items():
        missing = [package for package in packages if _version(package) is None]
        found = ", ".join(f"{package} {_version(package)}" for package in packages if package not in missing)
        hint = f"missing {', '.join(missing)}: pip install 'megatron-octo[cpu]'" if missing else found
        lines.append(_line(stage, not missing, hint))
        healthy = healthy and not missing
    return "\n".join(lines), healthy


def _line(what: str, good: bool, text: str) -> str:
    return f"{'ok  ' if good else 'LACK'} {what:<17} {text}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
