"""A random model of every family, tied and untied, in transformers' own files; no bias is zero and no norm one, as they start."""

from pathlib import Path
from typing import Any

import tiny_training
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PreTrainedConfig, Qwen2Config, Qwen3Config

SIZES: dict[str, Any] = {
    "num_hidden_layers": 4, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8, "num_key_value_heads": 4,
    "vocab_size": tiny_training.VOCAB_SIZE, "max_position_embeddings": 16384, "rms_norm_eps": 1e-5,
    # big enough that logits spread
    "initializer_range": 0.2,
}  # fmt: skip
#: Heads of another size than hidden / heads.
WIDE = {"head_dim": 12}
PLAIN = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
SCALED = {
    "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}  # fmt: skip


def _config(family: type[PreTrainedConfig], *, tied: bool, **more: Any) -> PreTrainedConfig:
    return family(**SIZES, tie_word_embeddings=tied, **more)


CONFIGS = {
    "llama-tied": _config(LlamaConfig, tied=True, **WIDE, **PLAIN),
    "llama-untied": _config(LlamaConfig, tied=False, **WIDE, **SCALED),
    "qwen2-tied": _config(Qwen2Config, tied=True, **PLAIN),
    "qwen2-untied": _config(Qwen2Config, tied=False, **PLAIN),
    # as from version 0.2 on: no window
    "mistral-untied": _config(MistralConfig, tied=False, sliding_window=None, **WIDE, **PLAIN),
    "qwen3-tied": _config(Qwen3Config, tied=True, **WIDE, **PLAIN),
    "qwen3-untied": _config(Qwen3Config, tied=False, **WIDE, **PLAIN),
}
NAMES = tuple(CONFIGS)


def make(directory: Path, name: str) -> Path:
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(CONFIGS[name])
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(0.3 * torch.randn_like(parameter) + float("norm" in parameter_name))
    model.save_pretrained(directory)
    return directory
