"""The model families that go both ways between Hugging Face and Megatron, and what of their config.json Megatron cannot train.

A config.json leaves out what its family's class in transformers fills in, and the classes differ: the defaults here are theirs
(transformers 5.23, the same in 4.57; a test compares them). Plain JSON: importing transformers would cost more than a conversion.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_octo.conversion import hf_files
from megatron_octo.errors import ArtifactError, ConfigError
from megatron_octo.training.config import ModelConfig

CONFIG_FILE = "config.json"
FULL_ATTENTION = "full_attention"


@dataclass(frozen=True, kw_only=True)
class Family:
    """A decoder as transformers names it, and the two things in which these decoders differ for Megatron."""

    name: str
    model_type: str
    architecture: str
    add_qkv_bias: bool = False
    qk_layernorm: bool = False
    #: What a config.json means that leaves these fields out.
    defaults: Mapping[str, Any]
    #: Fields of config.json that have one value here: exported as they stand, refused with another one.
    fixed: Mapping[str, Any] = field(default_factory=dict)


LLAMA = Family(
    name="Llama",
    model_type="llama",
    architecture="LlamaForCausalLM",
    defaults={
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": None, "head_dim": None, "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
    },
    fixed={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
)  # fmt: skip
_QWEN_DEFAULTS = {
    "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}  # fmt: skip
# Qwen2.5 is of this type, too.
QWEN2 = Family(
    name="Qwen2",
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    add_qkv_bias=True,
    defaults=_QWEN_DEFAULTS | {"head_dim": None},
    fixed={"hidden_act": "silu", "use_sliding_window": False},
)
QWEN3 = Family(
    name="Qwen3",
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    qk_layernorm=True,
    defaults=_QWEN_DEFAULTS | {"head_dim": 128},
    fixed={"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False},
)
# For Megatron a Llama, unless it attends to a window: the default here, so a missing field is refused, too.
MISTRAL = Family(
    name="Mistral",
    model_type="mistral",
    architecture="MistralForCausalLM",
    defaults={
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": None, "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "sliding_window": 4096,
    },
    fixed={"hidden_act": "silu"},
)  # fmt: skip
FAMILIES = {family.model_type: family for family in (LLAMA, QWEN2, QWEN3, MISTRAL)}


def of_model(model: ModelConfig) -> Family:
    """The family whose decoder this is. Raises `ConfigError` for one that none of them has.

    A model that was a Mistral is a Llama without its config.json: the same tensors, computed in the same way.
    """
    for family in FAMILIES.values():
        if (family.add_qkv_bias, family.qk_layernorm) == (model.add_qkv_bias, model.qk_layernorm):
            return family
    raise ConfigError(
        f"add_qkv_bias {model.add_qkv_bias} with qk_layernorm {model.qk_layernorm} is no Hugging Face model; allowed: neither "
        "(Llama, Mistral), add_qkv_bias (Qwen2), qk_layernorm (Qwen3)"
    )


def load(directory: Path) -> tuple[Family, dict[str, Any]]:
    """The family of a Hugging Face directory and its config, defaults filled in.

    Raises:
        ArtifactError: there is no readable config.json, such as where another tool's files lie instead.
        ConfigError: it describes what Megatron cannot train as it stands; names the field, its value and the allowed one.
    """
    file = directory / CONFIG_FILE
    if not file.exists():
        hf_files.refuse_other_formats(directory)
    return complete(read_json(file), file)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object. Raises `ArtifactError` for a file that is not there, not fetched or none."""
    if file.is_file():
        hf_files.refuse_pointer(file)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ArtifactError(f"cannot read {file}: {reason}; name a Hugging Face model directory") from error
    if not isinstance(found, dict):
        raise ArtifactError(f"{file} holds no JSON object; name a Hugging Face model directory")
    return found


def complete(config: Mapping[str, Any], file: Path) -> tuple[Family, dict[str, Any]]:
    """The family of a config and the config with the family's defaults. `file` is what errors name; raises as `load` does."""
    family = FAMILIES.get(model_type := str(config.get("model_type")))
    if family is None:
        raise ConfigError(f"{file}: model_type '{model_type}' is not supported; allowed: {', '.join(FAMILIES)}")
    found = {**family.fixed, **family.defaults, **config}
    _require_sizes(file, family, found)
    if found["num_key_value_heads"] is None:
        found["num_key_value_heads"] = found["num_attention_heads"]
    if found["head_dim"] is None:
        found["head_dim"] = found["hidden_size"] // found["num_attention_heads"]
    _require_trainable(file, family, found)
    return family, found


def _require_sizes(file: Path, family: Family, config: Mapping[str, Any]) -> None:
    for name in (name for name, default in family.defaults.items() if type(default) is int):
        value = config[name]
        if value is not None and (type(value) is not int or value < 1):
            raise ConfigError(f"{file}: {name} is {value!r}; it is a number of at least 1")


def _require_trainable(file: Path, family: Family, config: Mapping[str, Any]) -> None:
    for name, allowed in family.fixed.items():
        if (found := config[name]) != allowed:
            raise ConfigError(f"{file}: {name} is {found}; a {family.name} model is trained with {name} {allowed} only")
    if config.get("quantization_config"):
        raise ConfigError(
            f"{file}: quantization_config is set; weights are trained and converted in fp32, bf16 or fp16: "
            "name the model they were quantised from"
        )
    # Qwen configs can also list, layer by layer, which attend to a window.
    others = sorted(set(config.get("layer_types") or ()) - {FULL_ATTENTION})
    if others:
        raise ConfigError(
            f"{file}: layer_types holds {', '.join(others)}; layers are trained with {FULL_ATTENTION} only"
        )
    if family is MISTRAL:
        _refuse_window(file, config)


def _refuse_window(file: Path, config: Mapping[str, Any]) -> None:
    """Mistral-7B-v0.1 looks back 4,096 tokens only; one that looks back as far as it goes has full attention."""
    window, positions = config["sliding_window"], config["max_position_embeddings"]
    if window is not None and window < positions:
        raise ConfigError(
            f"{file}: sliding_window is {window} of {positions} positions; layers are trained with {FULL_ATTENTION} only. Where no "
            f"sequence of yours is longer than {window} tokens the two are the same: set sliding_window to null"
        )
