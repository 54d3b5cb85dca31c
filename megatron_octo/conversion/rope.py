"""Rotary position embeddings in config.json, in either spelling.

    transformers 5                    rope_parameters: {rope_type, rope_theta, factor, ...}
    transformers 4, vLLM, the hub     rope_theta, and rope_scaling: null or {rope_type (older: type), factor, ...}

Both are read. The older one is written where we write a config: every loader knows it. A config that is carried over with only
rope_parameters stays as it is, and that is said: transformers 4 takes it for one with a rope_theta of 10,000 and no scaling,
without an error (97 % of the argmaxes of a model came out different, measured).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo.errors import ConfigError
from megatron_octo.training.config import ModelConfig

#: Megatron-Core fixes these three numbers of Llama-3's RoPE scaling and leaves only the factor open.
MEGATRON_SCALING = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
#: Every field that says something about it.
FIELDS = ("rope_parameters", "rope_theta", "rope_scaling", "partial_rotary_factor", "original_max_position_embeddings")
#: transformers' own, for all families here.
DEFAULT_THETA = 10_000.0


@dataclass(frozen=True)
class Rope:
    theta: float
    #: Of Llama-3's scaling; None without scaling.
    factor: float | None


def read(config: Mapping[str, Any], file: Path) -> Rope:
    """What a config says, read as transformers does. Raises `ConfigError`, naming `file`, for what Megatron cannot train."""
    found: dict[str, Any] = {"rope_theta": DEFAULT_THETA}
    found |= _present(config, "rope_theta", "partial_rotary_factor")
    found |= config.get("rope_scaling") or config.get("rope_parameters") or {}
    found |= _present(config, "original_max_position_embeddings")
    kind, whole = _kind(found), found.get("partial_rotary_factor", 1.0) == 1.0
    if kind == "default" and whole:
        return Rope(theta=float(found["rope_theta"]), factor=None)
    numbers = {name: found.get(name) for name in MEGATRON_SCALING}
    if kind != "llama3" or "factor" not in found or numbers != MEGATRON_SCALING or not whole:
        raise ConfigError(
            f"{file}: RoPE scaling {found} cannot be trained; Megatron-Core knows none, or llama3 with "
            f"{MEGATRON_SCALING} and any factor"
        )
    return Rope(theta=float(found["rope_theta"]), factor=float(found["factor"]))


def is_lost_on_transformers_4(config: Mapping[str, Any], file: Path) -> bool:
    """Whether what `rope_parameters` says, which transformers 4 passes over, is said nowhere else."""
    older = {name: value for name, value in config.items() if name != "rope_parameters"}
    return read(older, file) != read(config, file)


def spell(model: ModelConfig) -> dict[str, Any]:
    """The fields of config.json."""
    scaling = {"rope_type": "llama3", "factor": model.rope_scaling_factor, **MEGATRON_SCALING}
    return {
        "rope_theta": model.rotary_base,
        "rope_scaling": scaling if model.rope_scaling_factor is not None else None,
    }


def _present(config: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: config[name] for name in names if config.get(name) is not None}


def _kind(found: Mapping[str, Any]) -> str:
    # One RoPE for every kind of layer, as models with several kinds have it.
    if any(isinstance(value, Mapping) for value in found.values()):
        return "several"
    return str(found.get("rope_type", found.get("type", "default")))
