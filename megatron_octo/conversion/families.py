"""The model families that go both ways between Hugging Face and Megatron, and what of their config.json Megatron cannot train."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import LlamaConfig, Qwen2Config, Qwen3Config

from megatron_octo.errors import ArtifactError, ConfigError
from megatron_octo.training.config import ModelConfig

FULL_ATTENTION = "full_attention"


@dataclass(frozen=True, kw_only=True)
class Family:
    """A decoder as transformers names it, and the two things in which these decoders differ for Megatron."""

    name: str
    #: A `PreTrainedConfig`.
    config_class: type[Any]
    architecture: str
    add_qkv_bias: bool = False
    qk_layernorm: bool = False
    #: Fields of config.json that have one value here: exported as they stand, refused with another one.
    fixed: Mapping[str, Any] = field(default_factory=dict)


FAMILIES = {
    "llama": Family(
        name="Llama",
        config_class=LlamaConfig,
        architecture="LlamaForCausalLM",
        fixed={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
    ),
    # Qwen2.5 is of this type, too.
    "qwen2": Family(
        name="Qwen2",
        config_class=Qwen2Config,
        architecture="Qwen2ForCausalLM",
        add_qkv_bias=True,
        fixed={"hidden_act": "silu", "use_sliding_window": False},
    ),
    "qwen3": Family(
        name="Qwen3",
        config_class=Qwen3Config,
        architecture="Qwen3ForCausalLM",
        qk_layernorm=True,
        fixed={"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False},
    ),
}


def of_model(model: ModelConfig) -> Family:
    """The family whose decoder this is. Raises `ConfigError` for one that none of them has."""
    for family in FAMILIES.values():
        if (family.add_qkv_bias, family.qk_layernorm) == (model.add_qkv_bias, model.qk_layernorm):
            return family
    raise ConfigError(
        f"add_qkv_bias {model.add_qkv_bias} with qk_layernorm {model.qk_layernorm} is no Hugging Face model; allowed: neither "
        "(Llama), add_qkv_bias (Qwen2), qk_layernorm (Qwen3)"
    )


def load(directory: Path) -> tuple[Family, Any]:
    """The family of a Hugging Face directory and its config, defaults filled in.

    Raises:
        ArtifactError: there is no readable config.json.
        ConfigError: it describes what Megatron cannot train as it stands; names the field, its value and the allowed one.
    """
    file = directory / "config.json"
    family = FAMILIES.get(model_type := _model_type(file))
    if family is None:
        raise ConfigError(f"{file}: model_type '{model_type}' is not supported; allowed: {', '.join(FAMILIES)}")
    config = family.config_class.from_pretrained(directory, local_files_only=True)
    _require_trainable(file, family, config)
    return family, config


def _model_type(file: Path) -> str:
    try:
        return str(json.loads(file.read_text()).get("model_type"))
    except (OSError, json.JSONDecodeError) as error:
        raise ArtifactError(f"cannot read {file}: {error}; name a Hugging Face model directory") from error


def _require_trainable(file: Path, family: Family, config: Any) -> None:
    for name, allowed in family.fixed.items():
        if (found := getattr(config, name)) != allowed:
            raise ConfigError(f"{file}: {name} is {found}; a {family.name} model is trained with {name} {allowed} only")
    # Qwen configs can also list, layer by layer, which attend to a window.
    others = sorted(set(getattr(config, "layer_types", None) or ()) - {FULL_ATTENTION})
    if others:
        raise ConfigError(
            f"{file}: layer_types holds {', '.join(others)}; layers are trained with {FULL_ATTENTION} only"
        )
