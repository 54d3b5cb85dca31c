"""Which versions of other packages go together: the one file that names them.

Nothing here imports what it judges. `doctor` shows what `conflicts` finds; tests hold the numbers equal to
pyproject.toml and to OpenRLHF's own requirements.
"""

import importlib.metadata
import re
from collections.abc import Mapping

#: The first is the one we lock: the last for Python 3.11. 0.17.1 asks for 3.12 and passes what a CPU can test (`make test-megatron`);
#: training/megatron_versions.py holds the differences. 0.18.2 and 0.19.2 import triton, so that they do not load beside a CPU torch
#: (tried 2026-11-23). Others are refused: training/cpu.py redirects modules by name, saving.py calls parts of dist_checkpointing.
MEGATRON_CORE = ("0.16.1", "0.17.1")
#: From, and up to: what megatron-core 0.16.1 asks for in its extra `dev`.
TRANSFORMER_ENGINE = ((2, 9), (2, 12))
#: OpenRLHF and what it pins; its vLLM 0.29.0 takes torch 2.13.0 alone. transformers of the extra `cpu` is another one.
OPENRLHF = "0.11.2"
OPENRLHF_PINS = {"ray": "2.55.0", "deepspeed": "0.19.6", "transformers": "5.15.0"}
#: Packages that `conflicts` looks at.
WATCHED = (
    "megatron-core", "torch", "torchvision", "transformer-engine", "transformer-engine-torch", "openrlhf", *OPENRLHF_PINS,
    "nemo-run", "trl",
)  # fmt: skip


def installed() -> dict[str, str]:
    """Versions of the watched packages of this environment; those that are missing are left out."""
    found = {}
    for package in WATCHED:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def conflicts(found: Mapping[str, str]) -> list[str]:
    """What in an environment cannot work together, each with its remedy; `found` are versions by package, as from `installed`."""
    return [*_megatron(found), *_transformer_engine(found), *_openrlhf(found), *_launcher(found), *_torchvision(found)]


def tenant(found: Mapping[str, str]) -> str | None:
    """Whose environment this is, where no other extra belongs; None for all others."""
    if "nemo-run" in found:
        return "NeMo-Run's (extra `launch`, docs/cluster.md)"
    # Without DeepSpeed, OpenRLHF is there for its parser alone, which `make` installs beside the extra `cpu`.
    if "openrlhf" in found and "deepspeed" in found:
        return "OpenRLHF's (extra `rl`, docs/rl.md#openrlhf)"
    return None


def _megatron(found: Mapping[str, str]) -> list[str]:
    version = found.get("megatron-core", MEGATRON_CORE[0])
    if version in MEGATRON_CORE:
        return []
    allowed = " and ".join(MEGATRON_CORE)
    return [f"megatron-core {version}: training runs on {allowed}; pip install megatron-core=={MEGATRON_CORE[0]}"]


def _transformer_engine(found: Mapping[str, str]) -> list[str]:
    version = found.get("transformer-engine")
    if version is None or "megatron-core" not in found:
        return []
    # A build from source, such as NVIDIA's, is one package and has a local version: 2.10.0+769ed778.
    if "+" not in version and "transformer-engine-torch" not in found:
        # The wheel raises RuntimeError then, not ImportError, which megatron-core does not catch (tried with 0.16.1).
        return [
            f"transformer-engine {version} without its torch extension: `import megatron.core` fails; "
            "pip uninstall transformer-engine, or use the image `train` (docs/containers.md)"
        ]
    (low, high), has = TRANSFORMER_ENGINE, _release(version)
    if low <= has < high:
        return []
    return [
        f"transformer-engine {version}: megatron-core {MEGATRON_CORE[0]} asks for {low[0]}.{low[1]} to below {high[0]}.{high[1]}; "
        "use another NGC image"
    ]


def _openrlhf(found: Mapping[str, str]) -> list[str]:
    # Without DeepSpeed it is there for its parser alone, which `make` installs beside the extra `cpu`.
    if "openrlhf" not in found or "deepspeed" not in found:
        return []
    return [
        f"{package} {found[package]}: OpenRLHF {OPENRLHF} needs {version}; the extras `cpu` and `rl` live in environments of their own "
        "(docs/rl.md#openrlhf)"
        for package, version in OPENRLHF_PINS.items()
        if found.get(package, version) != version
    ]


def _launcher(found: Mapping[str, str]) -> list[str]:
    beside = [package for package in ("trl", "deepspeed", "megatron-core") if package in found]
    if "nemo-run" not in found or not beside:
        return []
    return [
        f"nemo-run {found['nemo-run']} beside {beside[0]}: it pins httpx, urllib3 and Ray in other versions; the extra `launch` lives in an "
        "environment of its own (docs/cluster.md)"
    ]


def _torchvision(found: Mapping[str, str]) -> list[str]:
    if not found.get("torch", "").endswith("+cpu") or found.get("torchvision", "+cpu").endswith("+cpu"):
        return []
    return [
        f"torchvision {found['torchvision']} is a CUDA build beside torch {found['torch']}: transformers and vLLM fail to import; "
        "pip uninstall torchvision"
    ]


def _release(version: str) -> tuple[int, ...]:
    """`2.10.0+4a1b` is (2, 10, 0)."""
    return tuple(int(number) for number in re.match(r"\d+(\.\d+)*", version)[0].split("."))  # type: ignore[index]
