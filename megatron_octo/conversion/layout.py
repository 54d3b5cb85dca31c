"""Which Hugging Face tensors make up which Megatron tensor, for all families. Pure functions on shapes and tensors.

Megatron stacks its layers: `decoder.layers.mlp.linear_fc1.weight` is one tensor [L, 2F, H]. Some of its tensors hold several of
Hugging Face's: QKV (its bias, too), in groups of the query heads that share one key and one value head, and gate over up.

Shape legend: L layers, H hidden, F ffn_hidden, D kv_channels (size of a head), A attention heads, G query groups, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_octo.training.config import ModelConfig

LAYERS = "decoder.layers."


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A Megatron tensor (of one layer, where `stacked`) and the Hugging Face tensors it is made of, in order."""

    key: str
    shape: tuple[int, ...]
    stacked: bool
    #: `{layer}` stands for the number of the layer.
    hf_names: tuple[str, ...]
    hf_shapes: tuple[tuple[int, ...], ...]
    join: Callable[[Sequence[Tensor]], Tensor]
    split: Callable[[Tensor], Sequence[Tensor]]

    def names(self, layer: int | None) -> list[str]:
        return [name.format(layer=layer) for name in self.hf_names]


def weights(model: ModelConfig) -> list[Weight]:
    """All tensors of a decoder, in the order in which they are computed with."""
    hidden, vocab = model.hidden_size, model.vocab_size
    outside = [_single("embedding.word_embeddings.weight", "model.embed_tokens.weight", (vocab, hidden))]
    last = [_single("decoder.final_layernorm.weight", "model.norm.weight", (hidden,))]
    if not model.share_embeddings_and_output_weights:
        last.append(_single("output_layer.weight", "lm_head.weight", (vocab, hidden)))
    return [*outside, *_layer_weights(model), *last]


def each(model: ModelConfig) -> Iterator[tuple[Weight, int | None]]:
    """Every weight with every layer it exists in; None for weights outside the layers."""
    for weight in weights(model):
        for layer in range(model.num_layers) if weight.stacked else (None,):
            yield weight, layer


def hf_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every Hugging Face tensor, in the order they are written."""
    return {
        name: shape
        for weight, layer in each(model)
        for name, shape in zip(weight.names(layer), weight.hf_shapes, strict=True)
    }


def copies(model: ModelConfig) -> dict[str, str]:
    """Hugging Face tensors that may be written out a second time, and whose copy each is: some tied models (Qwen3-0.6B) do."""
    return {"lm_head.weight": "model.embed_tokens.weight"} if model.share_embeddings_and_output_weights else {}


def _layer_weights(model: ModelConfig) -> list[Weight]:
    hidden, ffn, attention = model.hidden_size, model.ffn_hidden_size, model.num_attention_heads * model.kv_channels
    return [
        _stacked("self_attention.linear_qkv.layer_norm_weight", "input_layernorm", (hidden,)),
        _qkv(model, "weight", (model.hidden_size,)),
        # Qwen2 has the bias, Qwen3 the norms, Llama neither.
        *([_qkv(model, "bias", ())] if model.add_qkv_bias else []),
        *(_qk_norms(model) if model.qk_layernorm else []),
        _stacked("self_attention.linear_proj.weight", "self_attn.o_proj", (hidden, attention)),
        _stacked("mlp.linear_fc1.layer_norm_weight", "post_attention_layernorm", (hidden,)),
        _gate_up(model),
        _stacked("mlp.linear_fc2.weight", "mlp.down_proj", (hidden, ffn)),
    ]


def _single(key: str, name: str, shape: tuple[int, ...], *, stacked: bool = False) -> Weight:
    return Weight(
        key=key,
        shape=shape,
        stacked=stacked,
        hf_names=(name,),
        hf_shapes=(shape,),
        join=lambda parts: parts[0],
        # Megatron may pad the vocabulary: rows beyond it belong to no token.
        split=lambda whole: (whole[: shape[0]],),
    )


def _stacked(key: str, module: str, shape: tuple[int, ...]) -> Weight:
    return _single(LAYERS + key, f"model.layers.{{layer}}.{module}.weight", shape, stacked=True)


def _qk_norms(model: ModelConfig) -> list[Weight]:
    """One weight [D] for all query heads of a layer, one for all key heads."""
    return [
        _stacked(f"self_attention.{part}_layernorm.weight", f"self_attn.{part}_norm", (model.kv_channels,))
        for part in "qk"
    ]


def _gate_up(model: ModelConfig) -> Weight:
    part = (model.ffn_hidden_size, model.hidden_size)
    return Weight(
        key=f"{LAYERS}mlp.linear_fc1.weight",
        shape=(2 * model.ffn_hidden_size, model.hidden_size),
        stacked=True,
        hf_names=("model.layers.{layer}.mlp.gate_proj.weight", "model.layers.{layer}.mlp.up_proj.weight"),
        hf_shapes=(part, part),
        join=lambda parts: torch.cat(tuple(parts)),
        split=lambda whole: whole.chunk(2),
    )


def _qkv(model: ModelConfig, what: str, columns: tuple[int, ...]) -> Weight:
    """`what` is the weight, with H columns, or the bias, with none."""
    heads, groups, size = model.num_attention_heads, model.num_query_groups, model.kv_channels
    rows = (heads * size, groups * size, groups * size)
    return Weight(
        key=f"{LAYERS}self_attention.linear_qkv.{what}",
        shape=(sum(rows), *columns),
        stacked=True,
        hf_names=tuple(f"model.layers.{{layer}}.self_attn.{part}_proj.{what}" for part in "qkv"),
        hf_shapes=tuple((row, *columns) for row in rows),
        join=lambda parts: join_qkv(*parts, groups=groups),
        split=lambda whole: split_qkv(whole, heads=heads, groups=groups),
    )


def split_qkv(qkv: Tensor, *, heads: int, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """[(A + 2G) D, H] -> query [A D, H], key [G D, H], value [G D, H]; a bias likewise without H.

    Megatron's rows go group by group: A/G query heads, then the key head, then the value head of the group.
    """
    queries = heads // groups
    grouped = qkv.view(groups, queries + 2, -1, *qkv.shape[1:])
    query, key, value = torch.split(grouped, [queries, 1, 1], dim=1)
    return query.flatten(0, 2), key.flatten(0, 2), value.flatten(0, 2)


def join_qkv(query: Tensor, key: Tensor, value: Tensor, *, groups: int) -> Tensor:
    """The inverse of `split_qkv`."""
    size = key.shape[0] // groups
    grouped = [part.view(groups, -1, size, *part.shape[1:]) for part in (query, key, value)]
    return torch.cat(grouped, dim=1).flatten(0, 2)
