"""Which modules a layer is made of: Transformer Engine's where it can run, elsewhere Megatron's own with our attention and norm.

The keys of a checkpoint are the same for both.
"""

import hashlib
from typing import Any

import torch
from megatron.core.models.gpt import gpt_layer_specs
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer, get_transformer_layer_offset

from megatron_octo.training.activations import Modules
from megatron_octo.training.attention import FusedAttention
from megatron_octo.training.norm import RMSNorm


class SeededLayer(TransformerLayer):  # type: ignore[misc]  # the wheel has no types
    """A layer whose random weights depend on its number in the model alone, not on the pipeline stage that holds it."""

    def __init__(self, config: TransformerConfig, *args: Any, seed: int, **kwargs: Any) -> None:
        vp_stage = kwargs.get("vp_stage")
        number = kwargs.get("layer_number", 1) + get_transformer_layer_offset(config, vp_stage)
        digest = hashlib.blake2b(f"{seed}/layer {number}".encode(), digest_size=7).digest()
        torch.manual_seed(int.from_bytes(digest, "big"))
        super().__init__(config, *args, **kwargs)


def uses_transformer_engine() -> bool:
    """Whether Megatron-Core found Transformer Engine when it was imported, and there is a GPU for it."""
    # Never imported here: the bare package without its CUDA parts raises RuntimeError.
    return bool(gpt_layer_specs.HAVE_TE) and torch.cuda.is_available()


def modules() -> Modules:
    """Which layers a model of this process has."""
    if uses_transformer_engine():
        return Modules.TRANSFORMER_ENGINE
    return Modules.GPU if torch.cuda.is_available() else Modules.LOCAL


def layer_spec(
    config: TransformerConfig, *, seed: int, vp_stage: int | None = None, documents: bool = False
) -> TransformerBlockSubmodules:
    """The layers of one model chunk (`vp_stage`, None without virtual stages), and the final norm.

    Args:
        seed: of the random weights.
        documents: attention gets the first positions of documents in place of a mask (`FusedAttention`).
    """
    if uses_transformer_engine():
        block = transformer_engine_spec(config, vp_stage=vp_stage, documents=documents)
    else:
        block = local_spec(config, vp_stage=vp_stage)
    for layer in block.layer_specs:
        assert layer.module in (TransformerLayer, SeededLayer), layer.module
        layer.module, layer.params = SeededLayer, {**layer.params, "seed": seed}
    return block


def local_spec(config: TransformerConfig, *, vp_stage: int | None) -> TransformerBlockSubmodules:
    layer = gpt_layer_specs.get_gpt_layer_local_spec(normalization="RMSNorm", qk_layernorm=config.qk_layernorm)
    layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = RMSNorm
    attention = layer.submodules.self_attention.submodules
    attention.core_attention = FusedAttention
    if config.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = RMSNorm
    return TransformerBlockSubmodules(
        layer_specs=[layer] * get_num_layers_to_build(config, vp_stage), layer_norm=RMSNorm
    )


def transformer_engine_spec(
    config: TransformerConfig, *, vp_stage: int | None, documents: bool
) -> TransformerBlockSubmodules:
    block = gpt_layer_specs.get_gpt_decoder_block_spec(config, use_transformer_engine=True, vp_stage=vp_stage)
    if documents:
        # Transformer Engine's causal attention would ignore them without a word.
        for layer in block.layer_specs:
            layer.submodules.self_attention.submodules.core_attention = FusedAttention
    return block
