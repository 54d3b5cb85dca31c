"""What a Hugging Face directory holds besides weights: config.json, generation_config.json and tokenizer files."""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig

from megatron_octo.conversion import families
from megatron_octo.errors import ConfigError
from megatron_octo.training.config import ModelConfig

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
#: Megatron-Core fixes these three numbers of Llama-3's RoPE scaling and leaves only the factor open.
MEGATRON_ROPE_SCALING = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def write_config(
    directory: Path, model: ModelConfig, *, dtype: torch.dtype, bos_token_id: int | None, eos_token_id: int | None
) -> None:
    """config.json and generation_config.json. Written after the weights: without it nothing loads the directory."""
    family = families.of_model(model)
    config = family.config_class(
        architectures=[family.architecture],
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
        **family.fixed,
    )
    generation = GenerationConfig(bos_token_id=bos_token_id, eos_token_id=eos_token_id)  # type: ignore[no-untyped-call]
    generation.save_pretrained(directory)
    config.save_pretrained(directory)


def read_config(directory: Path) -> ModelConfig:
    """The model a config.json describes. Raises `ConfigError` on what Megatron cannot train as it stands."""
    family, config = families.load(directory)
    rope: dict[str, Any] = dict(config.rope_parameters or {})
    return ModelConfig(
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        ffn_hidden_size=config.intermediate_size,
        num_attention_heads=config.num_attention_heads,
        num_query_groups=config.num_key_value_heads,
        kv_channels=_head_size(config),
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        rotary_base=float(rope["rope_theta"]),
        rope_scaling_factor=_scaling_factor(rope, directory),
        layernorm_epsilon=config.rms_norm_eps,
        share_embeddings_and_output_weights=config.tie_word_embeddings,
        add_qkv_bias=family.add_qkv_bias,
        qk_layernorm=family.qk_layernorm,
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


def _head_size(config: Any) -> int:
    """Qwen2's published configs leave `head_dim` out; the other two families' classes fill it in."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


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
    kind, whole = rope.get("rope_type", "default"), rope.get("partial_rotary_factor", 1.0) == 1.0
    if kind == "default" and whole:
        return None
    numbers = {name: rope.get(name) for name in MEGATRON_ROPE_SCALING}
    if kind != "llama3" or numbers != MEGATRON_ROPE_SCALING or not whole:
        raise ConfigError(
            f"{directory / 'config.json'}: RoPE scaling {rope} cannot be trained; Megatron-Core knows none, or llama3 with "
            f"{MEGATRON_ROPE_SCALING} and any factor"
        )
    return float(rope["factor"])
