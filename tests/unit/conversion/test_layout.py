import pytest
import torch

from megatron_octo.conversion import layout
from megatron_octo.training.config import ModelConfig


def model(*, tied: bool = True) -> ModelConfig:
    return ModelConfig(
        num_layers=2, hidden_size=8, ffn_hidden_size=6, num_attention_heads=4, num_query_groups=2, kv_channels=3,
        vocab_size=10, max_position_embeddings=32, share_embeddings_and_output_weights=tied,
    )  # fmt: skip


def test_qkv_rows_go_group_by_group() -> None:
    # 4 heads in 2 groups, heads of one row: q0 q1 k0 v0 | q2 q3 k1 v1
    qkv = torch.arange(8.0)[:, None]
    query, key, value = layout.split_qkv(qkv, heads=4, groups=2)
    assert query.flatten().tolist() == [0, 1, 4, 5]
    assert key.flatten().tolist() == [2, 6]
    assert value.flatten().tolist() == [3, 7]
    assert torch.equal(layout.join_qkv(query, key, value, groups=2), qkv)


@pytest.mark.parametrize("tied", [True, False])
def test_join_undoes_split_for_every_weight(tied: bool) -> None:
    for weight in layout.weights(model(tied=tied)):
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
