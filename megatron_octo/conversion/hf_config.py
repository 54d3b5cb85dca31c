"""What a Hugging Face directory holds besides weights: config.json, generation_config.json, tokenizer files, model card."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig

from megatron_octo import units
from megatron_octo.errors import ArtifactError, ConfigError
from megatron_octo.training.config import ModelConfig

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
#: Megatron-Core fixes these three numbers of Llama-3's RoPE scaling and leaves only the factor open.
MEGATRON_ROPE_SCALING = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def write_config(
    directory: Path, model: ModelConfig, *, dtype: torch.dtype, bos_token_id: int | None, eos_token_id: int | None
) -> None:
    """config.json and generation_config.json. Written after the weights: without it nothing loads the directory."""
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        num_hidden_layers=model.num_layers,
        hidden_size=model.hidden_size,
        intermediate_size=model.ffn_hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_key_value_heads=model.num_query_groups,
        head_dim=model.kv_channels,
        vocab_size=model.vocab_size,
        max_position_embeddings=model.max_position_embeddings,
        rms_norm_eps=model.layernorm_epsilon,
        rope_parameters=_rope_parameters(model),
        tie_word_embeddings=model.share_embeddings_and_output_weights,
        bos_token_id=bos_token_id,
        eos_token_id=eos_token_id,
        dtype=dtype,
    )
    generation = GenerationConfig(bos_token_id=bos_token_id, eos_token_id=eos_token_id)  # type: ignore[no-untyped-call]
    generation.save_pretrained(directory)
    config.save_pretrained(directory)


def read_config(directory: Path) -> ModelConfig:
    """The model a config.json describes. Raises `ConfigError` on what Megatron cannot train as it stands."""
    config = _load_llama(directory)
    # LlamaConfig fills in what config.json leaves out.
    assert config.num_key_value_heads is not None
    assert config.head_dim is not None
    rope: dict[str, Any] = dict(config.rope_parameters or {})
    return ModelConfig(
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        ffn_hidden_size=config.intermediate_size,
        num_attention_heads=config.num_attention_heads,
        num_query_groups=config.num_key_value_heads,
        kv_channels=config.head_dim,
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        rotary_base=float(rope["rope_theta"]),
        rope_scaling_factor=_scaling_factor(rope, directory),
        layernorm_epsilon=config.rms_norm_eps,
        share_embeddings_and_output_weights=config.tie_word_embeddings,
    )


def copy_tokenizer(source: Path, directory: Path) -> tuple[int | None, int | None]:
    """Carry the tokenizer's files over and return its BOS and EOS ids."""
    present = [source / name for name in TOKENIZER_FILES if (source / name).exists()]
    if not present:
        raise ConfigError(f"{source} holds no tokenizer ({', '.join(TOKENIZER_FILES)}); set tokenizer to one that does")
    for file in present:
        shutil.copyfile(file, directory / file.name)
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    return tokenizer.bos_token_id, tokenizer.eos_token_id


def write_card(directory: Path, *, model: ModelConfig, checkpoint: Path, stage: dict[str, Any] | None) -> None:
    """README.md: what the model is and what it came from, as far as its training stage tells."""
    lines = [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\n---",
        f"# {_recipe(stage).get('name', checkpoint.name)}",
        f"A Llama-family decoder: {model.num_layers} layers, hidden size {model.hidden_size}, vocabulary {model.vocab_size:,}. "
        f"Converted by megatron-octo from the Megatron checkpoint `{checkpoint.name}`.",
        *(_lineage(stage) if stage is not None else []),
    ]
    (directory / "README.md").write_text("\n\n".join(lines) + "\n")


def _lineage(stage: dict[str, Any]) -> list[str]:
    recipe, counts = _recipe(stage), stage["counts"]
    facts = {
        "Tokens of this phase": units.count(recipe["train_tokens"]) if "train_tokens" in recipe else None,
        "Tokens in all": units.count(counts["total_tokens"]) if "total_tokens" in counts else None,
        "Started from": (recipe.get("branch_point") or {}).get("parent") or recipe.get("init_from"),
        "Code": stage.get("git_commit"),
        "Finished": stage.get("finished_at"),
    }
    shares = recipe.get("blend", {}).get("shares", [])
    return [
        "## Lineage",
        "\n".join(f"- {name}: {value}" for name, value in facts.items() if value is not None),
        *([_table(shares)] if shares else []),
        "Inputs and package versions:",
        f"```json\n{json.dumps({key: stage.get(key) for key in ('inputs', 'versions')}, indent=2)}\n```",
    ]


def _table(shares: list[dict[str, Any]]) -> str:
    rows = [f"| {share['corpus']} | {share['weight']:g} |" for share in shares]
    return "\n".join(["| corpus | share |", "|---|---|", *rows])


def _recipe(stage: dict[str, Any] | None) -> dict[str, Any]:
    recipe: dict[str, Any] = (stage or {}).get("config", {}).get("recipe", {})
    return recipe


def _rope_parameters(model: ModelConfig) -> dict[str, Any]:
    if model.rope_scaling_factor is None:
        return {"rope_type": "default", "rope_theta": model.rotary_base}
    return {
        "rope_type": "llama3",
        "rope_theta": model.rotary_base,
        "factor": model.rope_scaling_factor,
        **MEGATRON_ROPE_SCALING,
    }


def _scaling_factor(rope: dict[str, Any], directory: Path) -> float | None:
    if rope.get("rope_type", "default") == "default":
        return None
    numbers = {name: rope.get(name) for name in MEGATRON_ROPE_SCALING}
    if rope["rope_type"] != "llama3" or numbers != MEGATRON_ROPE_SCALING:
        raise ConfigError(
            f"{directory / 'config.json'}: RoPE scaling {rope} cannot be trained; Megatron-Core knows none, or llama3 with "
            f"{MEGATRON_ROPE_SCALING} and any factor"
        )
    return float(rope["factor"])


def _load_llama(directory: Path) -> LlamaConfig:
    file = directory / "config.json"
    try:
        model_type = json.loads(file.read_text()).get("model_type")
    except (OSError, json.JSONDecodeError) as error:
        raise ArtifactError(f"cannot read {file}: {error}; name a Hugging Face model directory") from error
    if model_type != "llama":
        raise ConfigError(f"{file}: model_type '{model_type}' is not supported; allowed: llama")
    config = LlamaConfig.from_pretrained(directory, local_files_only=True)
    biased = [name for name in ("attention_bias", "mlp_bias") if getattr(config, name)]
    if biased or config.hidden_act != "silu":
        raise ConfigError(
            f"{file}: {', '.join(biased) or 'hidden_act ' + config.hidden_act} is not Llama's; allowed: no bias, silu"
        )
    return config
