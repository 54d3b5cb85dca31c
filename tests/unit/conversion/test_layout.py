from typing import Any

import pytest
import torch

from megatron_octo.conversion import layout
from megatron_octo.training.config import ModelConfig


def model(*, tied: bool = True, **family: Any) -> ModelConfig:
    return ModelConfig(
        num_layers=2, hidden_size=8, ffn_hidden_size=6, num_attention_heads=4, num_query_groups=2, kv_channels=3,
        vocab_size=10, max_position_embeddings=32, share_embeddings_and_output_weights=tied,
        **family,
    )  # fmt: skip


def test_qkv_rows_go_group_by_group() -> None:
    # 4 heads in 2 groups, heads of one row: q0 q1 k0 v0 | q2 q3 k1 v1
    qkv = torch.arange(8.0)[:, None]
    query, key, value = layout.split_qkv(qkv, heads=4, groups=2)
    assert query.flatten().tolist() == [0, 1, 4, 5]
    assert key.flatten().tolist() == [2, 6]
    assert value.flatten().tolist() == [3, 7]
    assert torch.equal(layout.join_qkv(query, key, value, groups=2), qkv)


def test_a_bias_goes_group_by_group_too() -> None:
    # 4 heads of two numbers in 2 groups
    query, key, value = layout.split_qkv(torch.arange(16.0), heads=4, groups=2)
    assert query.tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert (key.tolist(), value.tolist()) == ([4, 5, 12, 13], [6, 7, 14, 15])
    assert torch.equal(layout.join_qkv(query, key, value, groups=2), torch.arange(16.0))


@pytest.mark.parametrize("family", [{}, {"add_qkv_bias": True}, {"qk_layernorm": True}])
@pytest.mark.parametrize("tied", [True, False])
def test_join_undoes_split_for_every_weight(tied: bool, family: dict[str, bool]) -> None:
    for weight in layout.weights(model(tied=tied, **family)):
        whole = torch.randn(weight.shape)
        parts = weight.split(whole)
        assert [tuple(part.shape) for part in parts] == list(weight.hf_shapes)
        assert torch.equal(weight.join(parts), whole)


def test_gate_comes_before_up() -> None:
    fc1 = next(weight for weight in layout.weights(model()) if weight.key == "decoder.layers.mlp.linear_fc1.weight")
    gate, up = fc1.split(torch.arange(12.0)[:, None].expand(12, 8))
    assert (gate[:, 0].tolist(), up[:, 0].tolist()) == ([0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11])
    assert fc1.names(1) == ["model.layers.1.mlp.gate_proj.weight", "model.layers.1.mlp.up_proj.weight"]


def test_padding_of_the_vocabulary_is_cut_off() -> None:
    embedding = layout.weights(model())[0]
    (trimmed,) = embedding.split(torch.ones(16, 8))
    assert trimmed.shape == (10, 8)


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
