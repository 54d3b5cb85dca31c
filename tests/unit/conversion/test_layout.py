import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_octo.conversion import layout
from megatron_octo.conversion.dtypes import BF16, FP16, FP32, Dtype, cast
from megatron_octo.conversion.plan import Box, Stored
from megatron_octo.training.config import ModelConfig


def model(*, tied: bool = True, **family: Any) -> ModelConfig:
    return ModelConfig(
        num_layers=2, hidden_size=8, ffn_hidden_size=6, num_attention_heads=4, num_query_groups=2, kv_channels=3,
        vocab_size=10, max_position_embeddings=32, share_embeddings_and_output_weights=tied,
        **family,
    )  # fmt: skip


def weight(key: str, **family: Any) -> layout.Weight:
    """Of layer 1."""
    return next(item for item in layout.weights(model(**family)) if (item.key, item.layer) == (key, 1))


def rows(found: layout.Weight) -> dict[str, list[int]]:
    """By Hugging Face tensor: the Megatron row that each of its rows is."""
    owners: dict[str, dict[int, int]] = {}
    for part in found.parts:
        for number in range(part.count):
            owners.setdefault(part.hf_name.split(".")[-2], {})[part.hf_row + number] = part.row + number
    return {name: [found[row] for row in sorted(found)] for name, found in owners.items()}


def test_qkv_rows_go_group_by_group() -> None:
    # 4 heads of 3 rows in 2 groups: q0 q1 k0 v0 | q2 q3 k1 v1
    for what, shape in (("weight", (24, 8)), ("bias", (24,))):
        qkv = weight(f"decoder.layers.self_attention.linear_qkv.{what}", add_qkv_bias=True)
        assert qkv.shape == shape
        assert rows(qkv) == {
            "q_proj": [0, 1, 2, 3, 4, 5, 12, 13, 14, 15, 16, 17],
            "k_proj": [6, 7, 8, 18, 19, 20],
            "v_proj": [9, 10, 11, 21, 22, 23],
        }
        assert {part.hf_name.rsplit(".", 1)[1] for part in qkv.parts} == {what}


def test_gate_comes_before_up() -> None:
    assert rows(weight("decoder.layers.mlp.linear_fc1.weight")) == {
        "gate_proj": [0, 1, 2, 3, 4, 5],
        "up_proj": [6, 7, 8, 9, 10, 11],
    }


@pytest.mark.parametrize("family", [{}, {"add_qkv_bias": True}, {"qk_layernorm": True}])
@pytest.mark.parametrize("tied", [True, False])
def test_every_row_of_both_sides_is_there_once(tied: bool, family: dict[str, bool]) -> None:
    described = model(tied=tied, **family)
    hf: dict[str, list[int]] = {}
    for item in layout.weights(described):
        megatron = [row for part in item.parts for row in range(part.row, part.row + part.count)]
        assert sorted(megatron) == list(range(item.shape[0]))
        for part in item.parts:
            hf.setdefault(part.hf_name, []).extend(range(part.hf_row, part.hf_row + part.count))
    assert {name: len(found) for name, found in hf.items()} == {
        name: shape[0] for name, shape in layout.hf_shapes(described).items()
    }
    assert all(sorted(found) == list(range(len(found))) for found in hf.values())


def stored(name: str, shape: tuple[int, ...], dtype: Dtype = BF16) -> Stored:
    return Stored(name, shape, dtype, (Box(Path("file"), 0, 0, 0, shape[0], math.prod(shape[1:]), 2),))


def test_padding_of_the_vocabulary_is_cut_off() -> None:
    padded = {"embedding.word_embeddings.weight": (16, 8)}
    shapes = {(item.key, item.layer): item.shape for item in layout.weights(model())}
    wanted = layout.to_hf(model(), lambda key, layer: stored(key, padded.get(key, shapes[key, layer])), None)
    assert (wanted[0].name, wanted[0].shape) == ("model.embed_tokens.weight", (10, 8))
    assert [(run.source_row, run.row, run.count) for run in wanted[0].runs] == [(0, 0, 10)]


def test_nothing_is_rounded_unless_asked_for() -> None:
    shapes = layout.hf_shapes(model())
    formats = {"model.layers.0.self_attn.k_proj.weight": FP32}
    kept = layout.to_megatron(model(), lambda name: stored(name, shapes[name], formats.get(name, BF16)), None)
    found = {(weight.key, weight.layer): wanted.dtype for weight, wanted in kept}
    assert found["decoder.layers.self_attention.linear_qkv.weight", 0] is FP32
    assert found["decoder.layers.self_attention.linear_qkv.weight", 1] is BF16
    asked = layout.to_megatron(model(), lambda name: stored(name, shapes[name]), FP32)
    assert {wanted.dtype for _, wanted in asked} == {FP32}


def test_formats_that_do_not_hold_each_other_become_one_that_holds_both() -> None:
    """1 + 2^-10 is no bf16 number, and 2^100 no fp16 number."""
    shapes = layout.hf_shapes(model())
    formats = {"model.layers.0.self_attn.k_proj.weight": FP16, "model.layers.1.mlp.up_proj.weight": FP16}
    found = {
        (weight.key, weight.layer): wanted.dtype
        for weight, wanted in layout.to_megatron(
            model(), lambda name: stored(name, shapes[name], formats.get(name, BF16)), None
        )
    }
    written = {
        found["decoder.layers.self_attention.linear_qkv.weight", 0],
        found["decoder.layers.mlp.linear_fc1.weight", 1],
    }
    (dtype,) = written
    for number, stored_as in ((1 + 2.0**-10, FP16), (2.0**100, BF16)):
        numbers = np.array([number], stored_as.numpy)
        assert float(cast(numbers, dtype, None)[0]) == float(numbers[0]) == number
    assert found["decoder.layers.self_attention.linear_qkv.weight", 1] is BF16


@pytest.mark.parametrize(
    ("name", "computed"),
    [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", True),
        ("model.layers.11.self_attn.rotary_emb.inv_freq", True),
        ("model.layers.0.self_attn.q_proj.weight", False),
        ("rotary_emb.inv_freq", False),
    ],
)
def test_buffers_of_older_files_are_no_weights(name: str, computed: bool) -> None:
    assert layout.is_computed(name) is computed


@pytest.mark.parametrize(("tied", "count"), [(True, 20), (False, 21)])
def test_names_are_those_of_transformers(tied: bool, count: int) -> None:
    shapes = layout.hf_shapes(model(tied=tied))
    assert len(shapes) == count
    assert ("lm_head.weight" in shapes) is not tied
    assert shapes["model.layers.1.self_attn.k_proj.weight"] == (6, 8)
    assert shapes["model.layers.0.self_attn.o_proj.weight"] == (8, 12)


def test_what_the_qwen_families_have_besides() -> None:
    llama = layout.hf_shapes(model())
    qwen2, qwen3 = layout.hf_shapes(model(add_qkv_bias=True)), layout.hf_shapes(model(qk_layernorm=True))
    attention = "model.layers.1.self_attn"
    assert {name: shape for name, shape in qwen2.items() if name not in llama and ".1." in name} == {
        f"{attention}.q_proj.bias": (12,), f"{attention}.k_proj.bias": (6,), f"{attention}.v_proj.bias": (6,),
    }  # fmt: skip
    assert {name: shape for name, shape in qwen3.items() if name not in llama and ".1." in name} == {
        f"{attention}.q_norm.weight": (3,), f"{attention}.k_norm.weight": (3,),
    }  # fmt: skip


def test_megatron_keys_of_the_qwen_families() -> None:
    llama = {weight.key for weight in layout.weights(model())}
    qwen2 = {weight.key for weight in layout.weights(model(add_qkv_bias=True))}
    qwen3 = {weight.key for weight in layout.weights(model(qk_layernorm=True))}
    attention = "decoder.layers.self_attention"
    assert qwen2 - llama == {f"{attention}.linear_qkv.bias"}
    assert qwen3 - llama == {f"{attention}.q_layernorm.weight", f"{attention}.k_layernorm.weight"}
