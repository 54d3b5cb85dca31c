"""The model of a checkpoint that Megatron-LM wrote, from the arguments it keeps in `common.pt`.

Names and meanings are those of megatron/training/arguments.py; older versions lack some, which then have their only value.
"""

import math
from collections.abc import Mapping
from typing import Any

from megatron_octo import config as configs
from megatron_octo.errors import ConfigError
from megatron_octo.training.config import ModelConfig

#: What the models of our families have in common, and the values that say so, the usual one first.
REQUIRED: Mapping[str, tuple[Any, ...]] = {
    "normalization": ("RMSNorm",),
    "swiglu": (True,),
    "position_embedding_type": ("rope",),
    "add_bias_linear": (False,),
    "rotary_percent": (1.0,),
    "rotary_interleaved": (False,),
    "rotary_seq_len_interpolation_factor": (None, 1),
    "no_rope_freq": (None,),
    "window_size": (None,),
    "squared_relu": (False,),
    "openai_gelu": (False,),
    "quick_geglu": (False,),
    "glu_linear_offset": (0.0,),
    "activation_func_clamp_value": (None,),
    "apply_layernorm_1p": (False,),
    "apply_residual_connection_post_layernorm": (False,),
    "qk_l2_norm": (False,),
    "softmax_type": ("vanilla",),
    "attention_output_gate": (False,),
    "num_experts": (None, 0),
    "multi_latent_attention": (False,),
    "experimental_attention_variant": (None,),
    "mtp_num_layers": (None, 0),
    "is_hybrid_model": (False,),
    "hybrid_layer_pattern": (None,),
    "hybrid_override_pattern": (None,),
    "heterogeneous_layers_config_path": (None,),
    "heterogeneous_layers_config_encoded_json": (None,),
}
#: After what differs.
_NAME_ANOTHER = "name the Hugging Face directory of this very model with --reference"


def model(args: Mapping[str, Any], *, vocab_size: int | None, where: str) -> ModelConfig:
    """The architecture that Megatron-LM's arguments describe.

    Args:
        vocab_size: of the reference, where there is one. The arguments often know the padded one only.
        where: the checkpoint, as errors name it.
    Raises:
        ConfigError: they describe something else than a dense Llama, Qwen or Mistral, or do not tell the vocabulary, or
            another one than the reference's: rows of tokens would be cut off, or padding exported as tokens.
    """
    _require_family(args, where)
    scaled = args.get("use_rope_scaling", False)
    fields = {
        "num_layers": args.get("num_layers"),
        "hidden_size": args.get("hidden_size"),
        "ffn_hidden_size": args.get("ffn_hidden_size"),
        "num_attention_heads": args.get("num_attention_heads"),
        "num_query_groups": args.get(
            "num_query_groups" if args.get("group_query_attention") else "num_attention_heads"
        ),
        "kv_channels": args.get("kv_channels"),
        "vocab_size": _vocab_size(args, vocab_size, where),
        "max_position_embeddings": args.get("max_position_embeddings"),
        "rotary_base": float(args.get("rotary_base", 10_000)),
        "rope_scaling_factor": float(args.get("rope_scaling_factor", 8.0)) if scaled else None,
        "layernorm_epsilon": args.get("norm_epsilon", args.get("layernorm_epsilon")),
        "share_embeddings_and_output_weights": not args.get("untie_embeddings_and_output_weights", False),
        "add_qkv_bias": args.get("add_qkv_bias", False),
        "qk_layernorm": args.get("qk_layernorm", False),
    }
    try:
        return configs.from_dict(ModelConfig, fields)
    except ConfigError as error:
        raise ConfigError(f"{where}: its arguments do not describe a model: {error}") from error


def _require_family(args: Mapping[str, Any], where: str) -> None:
    # True == 1 and False == 0, as some versions write them
    wrong = [
        f"{name} is {args[name]} (allowed: {' or '.join(map(str, values))})"
        for name, values in REQUIRED.items()
        if name in args and args[name] not in values
    ]
    if wrong:
        raise ConfigError(
            f"{where} is no dense Llama, Qwen or Mistral, which are what is converted: {'; '.join(wrong)}"
        )


def _vocab_size(args: Mapping[str, Any], of_reference: int | None, where: str) -> int:
    own, padded = args.get("vocab_size"), args.get("padded_vocab_size")
    if of_reference is None:
        if own:
            return int(own)
        raise ConfigError(
            f"{where} knows its padded vocabulary only ({padded} rows, some of them no tokens); name the Hugging Face directory of "
            "its model with --reference"
        )
    if own and own != of_reference:
        raise ConfigError(
            f"{where} has a vocabulary of {own:,} and the reference one of {of_reference:,}; {_NAME_ANOTHER}"
        )
    multiple = (args.get("make_vocab_size_divisible_by") or 0) * (args.get("tensor_model_parallel_size") or 0)
    if not own and padded and multiple and padded != math.ceil(of_reference / multiple) * multiple:
        raise ConfigError(
            f"{where} has a vocabulary of {padded:,} rows, which is not what the reference's {of_reference:,} come to when they "
            f"are padded to a multiple of {multiple:,}; {_NAME_ANOTHER}"
        )
    return of_reference
