"""Models as Megatron-LM's arguments describe them."""

from typing import Any

import pytest
from published_configs import MEGATRON_LM_LLAMA, MODELS

from megatron_octo.conversion import megatron_lm
from megatron_octo.errors import ConfigError
from megatron_octo.training.config import ModelConfig


def read(changes: dict[str, Any], *, of_reference: int | None = None) -> ModelConfig:
    return megatron_lm.model(MEGATRON_LM_LLAMA | changes, vocab_size=of_reference, where="iter_0000100")


def test_a_llama() -> None:
    assert read({}) == MODELS["Llama-3.1-8B"][1]


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        # one group per head; Megatron-LM's default of num_query_groups then means nothing
        ({"group_query_attention": False, "num_query_groups": 1}, "num_query_groups", 32),
        ({"use_rope_scaling": False}, "rope_scaling_factor", None),
        ({"rotary_base": 10000}, "rotary_base", 10000.0),
        ({"untie_embeddings_and_output_weights": False}, "share_embeddings_and_output_weights", True),
        ({"add_qkv_bias": True}, "add_qkv_bias", True),
        ({"qk_layernorm": True}, "qk_layernorm", True),
    ],
)
def test_a_field_that_differs(changes: dict[str, Any], field: str, value: Any) -> None:
    assert getattr(read(changes), field) == value


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_size": 1000},
        # 512 = 128 x 4 goes twice into 1,024
        {"vocab_size": None, "padded_vocab_size": 1024, "make_vocab_size_divisible_by": 128, "tensor_model_parallel_size": 4},
        # nothing known to compare with; the rows of the embedding are compared later
        {"vocab_size": None, "padded_vocab_size": 1024},
        {"vocab_size": None, "padded_vocab_size": None},
    ],
)  # fmt: skip
def test_the_vocabulary_is_that_of_the_reference(changes: dict[str, Any]) -> None:
    assert read(changes, of_reference=1000).vocab_size == 1000


@pytest.mark.parametrize("of_reference", [900, 1100])
def test_a_reference_of_another_vocabulary_is_refused(of_reference: int) -> None:
    with pytest.raises(
        ConfigError, match=rf"has a vocabulary of 1,000 and the reference one of {of_reference:,}; .* --reference"
    ):
        read({"vocab_size": 1000}, of_reference=of_reference)


@pytest.mark.parametrize("of_reference", [900, 1030])
def test_more_rows_than_padding_explains_are_refused(of_reference: int) -> None:
    unpadded = {"vocab_size": None, "padded_vocab_size": 1152}
    with pytest.raises(
        ConfigError, match=rf"of 1,152 rows, .* the reference's {of_reference:,} come to .* a multiple of 256"
    ):
        read(
            unpadded | {"make_vocab_size_divisible_by": 128, "tensor_model_parallel_size": 2}, of_reference=of_reference
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts": 8}, r"num_experts is 8 \(allowed: None or 0\)"),
        (
            {"normalization": "LayerNorm", "swiglu": False},
            r"normalization is LayerNorm \(allowed: RMSNorm\); swiglu is False",
        ),
        (
            {"position_embedding_type": "learned_absolute"},
            r"position_embedding_type is learned_absolute \(allowed: rope\)",
        ),
        ({"add_bias_linear": True}, "add_bias_linear is True"),
        ({"rotary_percent": 0.5}, "rotary_percent is 0.5"),
        ({"multi_latent_attention": True}, "multi_latent_attention is True"),
        ({"window_size": (4096, 0)}, r"window_size is \(4096, 0\)"),
    ],
)
def test_what_no_family_has_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^iter_0000100 is no dense Llama, Qwen or Mistral, .*: {message}"):
        read(changes)


def test_a_vocabulary_known_only_padded_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"its padded vocabulary only \(128512 rows, .* with --reference"):
        read({"vocab_size": None})


def test_arguments_that_lack_the_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"iter_0000100: its arguments do not describe a model: .*num_layers"):
        read({"num_layers": None})
