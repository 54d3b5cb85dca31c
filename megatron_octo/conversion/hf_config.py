"""What a Hugging Face directory holds besides weights: config.json, generation_config.json, tokenizer and licence files.

With a reference, the model a run started from, these are its own files; config.json changes where training changed the model.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo import config as configs
from megatron_octo.conversion import families, rope, special_tokens
from megatron_octo.conversion.dtypes import Dtype
from megatron_octo.conversion.families import CONFIG_FILE, Family
from megatron_octo.conversion.special_tokens import NO_TOKENS, SpecialTokens
from megatron_octo.errors import ConfigError
from megatron_octo.training.config import ModelConfig

GENERATION_FILE = "generation_config.json"
CARD_FILE = "README.md"
#: Llama's licence wants its text and the notice passed on.
_LICENCE = re.compile(r"(licen[cs]e|notice|use_policy|copying)\b.*", re.IGNORECASE)
#: What mid-training may change: a longer context, and the RoPE that goes with it. By ModelConfig's names.
_TRAINABLE = ("max_position_embeddings", "rotary_base", "rope_scaling_factor")


@dataclass(frozen=True)
class Surroundings:
    """All of a Hugging Face directory but its weights, their index and the model card."""

    family: Family
    #: By name: what is written, and the files that are copied.
    files: Mapping[str, bytes]
    copies: Mapping[str, Path]
    #: What the user should know, a line each.
    notes: tuple[str, ...]


def read_config(directory: Path) -> ModelConfig:
    """The model a config.json describes. Raises `ConfigError` on what Megatron cannot train as it stands."""
    return _model(*families.load(directory), directory / CONFIG_FILE)


def keep(source: Path) -> dict[str, Path]:
    """Files of a Hugging Face directory, by name, that an import keeps so that an export is complete without it.

    Raises `ArtifactError` for one that cannot be read.
    """
    names = (CONFIG_FILE, GENERATION_FILE, CARD_FILE)
    there = {name: source / name for name in names if (source / name).is_file()}
    found = there | special_tokens.files(source) | _licences(source)
    special_tokens.require_readable(found)
    return found


def surroundings(model: ModelConfig, *, dtype: Dtype, reference: Path | None, tokenizer: Path | None) -> Surroundings:
    """What stands around the weights of a model.

    Args:
        dtype: of the weights.
        reference: Hugging Face directory of the same model, such as the one it was trained from.
        tokenizer: directory of the tokenizer files, before those of the reference.
    Raises:
        ConfigError: the reference is another model, or the tokenizer is none or has more tokens than the model.
        ArtifactError: a file that would be carried over cannot be read.
    """
    place = _tokenizer_place(reference, tokenizer)
    copies = _copies(reference, place)
    tokens = _tokens(place, model) if place is not None else NO_TOKENS
    notes: list[str] = []
    if reference is None:
        family, config = families.of_model(model), _made(model, dtype, tokens)
    else:
        family, config, notes = _carried(model, dtype, reference)
    notes += _notes_on_tokens(place, tokens, config)
    files = {CONFIG_FILE: _json(config)}
    if GENERATION_FILE not in copies:
        files[GENERATION_FILE] = _json({name: config.get(name) for name in tokens.fields})
    return Surroundings(family=family, files=files, copies=copies, notes=tuple(notes))


def _copies(reference: Path | None, place: Path | None) -> dict[str, Path]:
    """What is carried over as it is: the tokenizer, and the licence and generation settings of the reference."""
    found = special_tokens.files(place) if place is not None else {}
    if reference is not None:
        found |= _licences(reference)
        generation = reference / GENERATION_FILE
        found |= {GENERATION_FILE: generation} if generation.is_file() else {}
    special_tokens.require_readable(found)
    return found


def _model(family: Family, config: Mapping[str, Any], file: Path) -> ModelConfig:
    """`config` has its defaults. A value of a wrong type is an error that names Megatron's field."""
    embedding = rope.read(config, file)
    fields = {
        "num_layers": config["num_hidden_layers"],
        "hidden_size": config["hidden_size"],
        "ffn_hidden_size": config["intermediate_size"],
        "num_attention_heads": config["num_attention_heads"],
        "num_query_groups": config["num_key_value_heads"],
        "kv_channels": config["head_dim"],
        "vocab_size": config["vocab_size"],
        "max_position_embeddings": config["max_position_embeddings"],
        "rotary_base": embedding.theta,
        "rope_scaling_factor": embedding.factor,
        "layernorm_epsilon": config["rms_norm_eps"],
        "share_embeddings_and_output_weights": config["tie_word_embeddings"],
        "add_qkv_bias": family.add_qkv_bias,
        "qk_layernorm": family.qk_layernorm,
    }
    try:
        return configs.from_dict(ModelConfig, fields)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def _made(model: ModelConfig, dtype: Dtype, tokens: SpecialTokens) -> dict[str, Any]:
    """A config.json from the model alone."""
    family = families.of_model(model)
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_query_groups,
        "head_dim": model.kv_channels,
        "max_position_embeddings": model.max_position_embeddings,
        "rms_norm_eps": model.layernorm_epsilon,
        **rope.spell(model),
        "tie_word_embeddings": model.share_embeddings_and_output_weights,
        **family.fixed,
        **tokens.fields,
        "torch_dtype": dtype.name,
        "use_cache": True,
    }


def _carried(model: ModelConfig, dtype: Dtype, reference: Path) -> tuple[Family, dict[str, Any], list[str]]:
    """The reference's config.json with the dtype of these weights, and what else of it had to change."""
    file = reference / CONFIG_FILE
    config = families.read_json(file)
    family, complete = families.complete(config, file)
    before = _differences(model, _model(family, complete, file))
    if set(before) & set(_TRAINABLE):
        config = {name: value for name, value in config.items() if name not in rope.FIELDS}
        config |= rope.spell(model) | {"max_position_embeddings": model.max_position_embeddings}
    if others := [line for name, line in before.items() if name not in _TRAINABLE]:
        raise ConfigError(
            f"{file} is not of the model that is converted: {'; '.join(others)}; name its own with --reference"
        )
    # a window that was as long as the context may not be any more
    families.complete(config, file)
    spelled = [name for name in ("dtype", "torch_dtype") if name in config] or ["torch_dtype"]
    notes = [f"config.json is that of {reference}, except: {line}" for line in before.values()]
    if rope.is_lost_on_transformers_4(config, file):
        notes.append(
            "config.json has its RoPE as rope_parameters, as the reference's has: transformers 4 reads a rope_theta of "
            f"{rope.DEFAULT_THETA:g} from it, without an error; load it with transformers 5, or add rope_theta and rope_scaling"
        )
    return family, config | dict.fromkeys(spelled, dtype.name), notes


def _differences(model: ModelConfig, reference: ModelConfig) -> dict[str, str]:
    """By field, in words."""
    ours, theirs = dataclasses.asdict(model), dataclasses.asdict(reference)
    return {
        name: f"{name} is {value}, the reference's {theirs[name]}"
        for name, value in ours.items()
        if value != theirs[name]
    }


def _tokenizer_place(reference: Path | None, tokenizer: Path | None) -> Path | None:
    if tokenizer is not None and not special_tokens.files(tokenizer):
        raise ConfigError(
            f"{tokenizer} holds no tokenizer ({', '.join(special_tokens.VOCABULARIES)}); name a directory that does: --tokenizer DIR"
        )
    if tokenizer is None and reference is not None and special_tokens.files(reference):
        return reference
    return tokenizer


def _tokens(place: Path, model: ModelConfig) -> SpecialTokens:
    vocabulary = special_tokens.read_vocabulary(place)
    special_tokens.require_fit(vocabulary, vocab_size=model.vocab_size, directory=place)
    return special_tokens.find(place, vocabulary)


def _notes_on_tokens(place: Path | None, tokens: SpecialTokens, config: Mapping[str, Any]) -> list[str]:
    if place is None:
        return ["no tokenizer is written, for there is none; --tokenizer DIR names one"]
    end = config.get("eos_token_id")
    if end is None:
        return [f"{place} does not say which token ends a text: set eos_token_id in config.json before generating"]
    if tokens.eos not in (None, end):
        return [f"config.json ends a text with id {end}, the tokenizer in {place} with {tokens.eos}"]
    return []


def _licences(directory: Path) -> dict[str, Path]:
    return {file.name: file for file in sorted(directory.iterdir()) if file.is_file() and _LICENCE.fullmatch(file.name)}


def _json(config: Mapping[str, Any]) -> bytes:
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
