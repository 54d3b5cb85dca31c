"""Which rows of which Hugging Face tensors are which rows of a Megatron tensor, for all families. Pure functions on shapes.

Megatron stacks its layers: `decoder.layers.mlp.linear_fc1.weight` is one tensor [L, 2F, H]. Some of its tensors hold several of
Hugging Face's: QKV (its bias, too), in groups of the query heads that share one key and one value head, and gate over up.

Shape legend: L layers, H hidden, F ffn_hidden, D kv_channels (size of a head), A attention heads, G query groups, V vocabulary.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from megatron_octo.conversion.dtypes import FP32, Dtype
from megatron_octo.conversion.plan import Run, Stored, Wanted
from megatron_octo.training.config import ModelConfig

LAYERS = "decoder.layers."
EMBEDDING = "embedding.word_embeddings.weight"
OUTPUT = "output_layer.weight"
#: Buffers that older files of Llama and Mistral carry; every loader computes them.
_COMPUTED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")


@dataclass(frozen=True)
class Part:
    """`count` rows that both sides have: from `hf_row` on in one, from `row` on in the other."""

    hf_name: str
    hf_row: int
    row: int
    count: int


@dataclass(frozen=True)
class Weight:
    """A Megatron tensor, or one layer of a stacked one, and the rows it is made of, in its own order."""

    key: str
    #: None outside the layers.
    layer: int | None
    #: Without the axis of layers.
    shape: tuple[int, ...]
    parts: tuple[Part, ...]


def weights(model: ModelConfig) -> list[Weight]:
    """All tensors of a decoder, in the order in which they are computed with."""
    hidden, vocab = model.hidden_size, model.vocab_size
    first = [_single(EMBEDDING, "model.embed_tokens.weight", (vocab, hidden))]
    last = [_single("decoder.final_layernorm.weight", "model.norm.weight", (hidden,))]
    if not model.share_embeddings_and_output_weights:
        last.append(_single(OUTPUT, "lm_head.weight", (vocab, hidden)))
    layers = [weight for layer in range(model.num_layers) for weight in _layer_weights(model, layer)]
    return [*first, *layers, *last]


def hf_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every Hugging Face tensor, in the order they are written."""
    found: dict[str, tuple[int, ...]] = {}
    for weight in weights(model):
        for part in weight.parts:
            rows = found.get(part.hf_name, (0,))[0]
            found[part.hf_name] = (max(rows, part.hf_row + part.count), *weight.shape[1:])
    return found


def copies(model: ModelConfig) -> dict[str, str]:
    """Hugging Face tensors that may be written out a second time, and whose copy each is: some tied models (Qwen3-0.6B) do."""
    return {"lm_head.weight": "model.embed_tokens.weight"} if model.share_embeddings_and_output_weights else {}


def is_computed(hf_name: str) -> bool:
    """Whether a Hugging Face tensor is no weight, so that it may be there and is not read."""
    return _COMPUTED.fullmatch(hf_name) is not None


def to_hf(model: ModelConfig, megatron: Callable[[str, int | None], Stored], dtype: Dtype | None) -> list[Wanted]:
    """The Hugging Face tensors of a model.

    Args:
        megatron: a tensor of the checkpoint by key and layer; it may have more rows than it needs (a padded vocabulary).
        dtype: None for that of the source.
    """
    runs: dict[str, list[Run]] = {}
    for weight in weights(model):
        source = megatron(weight.key, weight.layer)
        for part in weight.parts:
            runs.setdefault(part.hf_name, []).append(Run(source, part.row, part.hf_row, part.count))
    return [_wanted(name, shape, runs[name], dtype) for name, shape in hf_shapes(model).items()]


def to_megatron(model: ModelConfig, hf: Callable[[str], Stored], dtype: Dtype | None) -> list[tuple[Weight, Wanted]]:
    """The Megatron tensors of a model, each layer for itself. `dtype`: None for that of the source."""
    return [
        (weight, _wanted(spell(weight.key, weight.layer), weight.shape, _from_hf(weight, hf), dtype))
        for weight in weights(model)
    ]


def spell(key: str, layer: int | None) -> str:
    return key if layer is None else f"{key}, layer {layer}"


def _from_hf(weight: Weight, hf: Callable[[str], Stored]) -> list[Run]:
    return [Run(hf(part.hf_name), part.hf_row, part.row, part.count) for part in weight.parts]


def _wanted(name: str, shape: tuple[int, ...], runs: Sequence[Run], dtype: Dtype | None) -> Wanted:
    return Wanted(name, shape, dtype or _holding_all(runs), tuple(runs))


def _holding_all(runs: Sequence[Run]) -> Dtype:
    """Query, key and value may be stored differently; none of them is rounded: fp32 holds what bf16 and fp16 do, neither the other's."""
    found = {run.source.natural_dtype for run in runs}
    return found.pop() if len(found) == 1 else FP32


def _layer_weights(model: ModelConfig, layer: int) -> list[Weight]:
    hidden, ffn, attention = model.hidden_size, model.ffn_hidden_size, model.num_attention_heads * model.kv_channels

    def single(key: str, module: str, shape: tuple[int, ...]) -> Weight:
        return _single(LAYERS + key, f"model.layers.{layer}.{module}.weight", shape, layer)

    return [
        single("self_attention.linear_qkv.layer_norm_weight", "input_layernorm", (hidden,)),
        _qkv(model, layer, "weight", (hidden,)),
        # Qwen2 has the bias, Qwen3 the norms, Llama and Mistral neither.
        *([_qkv(model, layer, "bias", ())] if model.add_qkv_bias else []),
        *(
            single(f"self_attention.{part}_layernorm.weight", f"self_attn.{part}_norm", (model.kv_channels,))
            for part in ("qk" if model.qk_layernorm else "")
        ),
        single("self_attention.linear_proj.weight", "self_attn.o_proj", (hidden, attention)),
        single("mlp.linear_fc1.layer_norm_weight", "post_attention_layernorm", (hidden,)),
        _gate_up(model, layer),
        single("mlp.linear_fc2.weight", "mlp.down_proj", (hidden, ffn)),
    ]


def _single(key: str, name: str, shape: tuple[int, ...], layer: int | None = None) -> Weight:
    return Weight(key, layer, shape, (Part(name, 0, 0, shape[0]),))


def _gate_up(model: ModelConfig, layer: int) -> Weight:
    ffn, mlp = model.ffn_hidden_size, f"model.layers.{layer}.mlp"
    parts = (Part(f"{mlp}.gate_proj.weight", 0, 0, ffn), Part(f"{mlp}.up_proj.weight", 0, ffn, ffn))
    return Weight(f"{LAYERS}mlp.linear_fc1.weight", layer, (2 * ffn, model.hidden_size), parts)


def _qkv(model: ModelConfig, layer: int, what: str, columns: tuple[int, ...]) -> Weight:
    """`what` is the weight, with H columns, or the bias, with none.

    Megatron's rows go group by group: A/G query heads, then the key head, then the value head of the group.
    """
    head, groups = model.kv_channels, model.num_query_groups
    queries = model.num_attention_heads // groups
    rows = (queries + 2) * head
    attention = f"model.layers.{layer}.self_attn"
    query, key, value = (f"{attention}.{part}_proj.{what}" for part in "qkv")
    parts = [
        part
        for group in range(groups)
        for part in (
            Part(query, group * queries * head, group * rows, queries * head),
            Part(key, group * head, group * rows + queries * head, head),
            Part(value, group * head, group * rows + (queries + 1) * head, head),
        )
    ]
    return Weight(f"{LAYERS}self_attention.linear_qkv.{what}", layer, (groups * rows, *columns), tuple(parts))
