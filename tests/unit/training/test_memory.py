"""Memory per GPU against sums done by hand. tests/integration/test_kept_tensors.py compares real models, benchmarks/memory.py real runs."""

import dataclasses
from typing import Any

import pytest

from megatron_octo import recipes
from megatron_octo.errors import ConfigError
from megatron_octo.training.activations import Modules, Tensors
from megatron_octo.training.blend import blend
from megatron_octo.training.config import MidTraining, ModelConfig
from megatron_octo.training.memory import Memory, in_flight, local_parameters, memory
from megatron_octo.training.parallelism import Parallelism
from megatron_octo.training.precision import Precision
from megatron_octo.training.recompute import Recompute, RecomputeGranularity, RecomputeMethod
from megatron_octo.training.schedule import LearningRateStyle, Schedule

# Small enough to add up by hand: a layer has query 4x4, key and value 4x4 together, output 4x4, gate, up, down 3x4x8, norms 2x4.
SMALL = ModelConfig(
    num_layers=4, hidden_size=4, ffn_hidden_size=8, num_attention_heads=2, num_query_groups=2, kv_channels=2, vocab_size=10,
    max_position_embeddings=64,
)  # fmt: skip
TIED = dataclasses.replace(SMALL, share_embeddings_and_output_weights=True)
MATRICES = 16 + 16 + 16 + 16 + 96
LAYER = MATRICES + 8
#: Four times as wide: the sides of its matrices are multiples of 16, which fp8 needs. Every matrix of a layer is 16 times as large.
WIDE = dataclasses.replace(SMALL, hidden_size=16, ffn_hidden_size=32, kv_channels=8)
TABLE = 40
FINAL_NORM = 4
TOKENS = 3 * 16


def phase(model: ModelConfig = SMALL, *, precision: Precision = Precision.BF16, **layout: Any) -> MidTraining:
    return MidTraining(
        name="small", model=model, init_from=None, tokenizer="none", blend=blend(web=1.0), train_tokens=48 * 16 * 4,
        seq_length=16, global_batch_size=48, micro_batch_size=3, precision=precision,
        schedule=Schedule(style=LearningRateStyle.CONSTANT, peak_lr=1e-3, min_lr=1e-3),
        parallelism=Parallelism(**layout), save_interval_tokens=48 * 16,
    )  # fmt: skip


def tensor(size: int) -> dict[str, Any]:
    return {"tensor_model_parallel_size": size}


def pipeline(size: int) -> dict[str, Any]:
    return {"pipeline_model_parallel_size": size}


def virtual(size: int, chunks: int) -> dict[str, Any]:
    return {**pipeline(size), "virtual_pipeline_model_parallel_size": chunks, "overlap_p2p_comm": True}


def test_states_of_one_gpu() -> None:
    parameters = 4 * LAYER + 2 * TABLE + FINAL_NORM
    bf16, fp32 = (memory(phase(precision=precision), 1) for precision in (Precision.BF16, Precision.FP32))
    assert (bf16.weights, bf16.gradients, bf16.optimizer) == (2 * parameters, 4 * parameters, 12 * parameters)
    assert (fp32.weights, fp32.gradients, fp32.optimizer) == (4 * parameters, 4 * parameters, 8 * parameters)
    assert bf16.total == 18 * parameters + bf16.activations.total


@pytest.mark.parametrize(
    ("model", "layout", "stage", "expected"),
    [
        (SMALL, {}, 0, 4 * LAYER + 2 * TABLE + FINAL_NORM),
        (TIED, {}, 0, 4 * LAYER + TABLE + FINAL_NORM),
        # Matrices and tables are split, norms are not.
        (SMALL, tensor(2), 0, 4 * (MATRICES // 2 + 8) + TABLE + FINAL_NORM),
        (SMALL, {"context_parallel_size": 2}, 0, 4 * LAYER + 2 * TABLE + FINAL_NORM),
        (SMALL, pipeline(4), 0, LAYER + TABLE),
        (SMALL, pipeline(4), 1, LAYER),
        (SMALL, pipeline(4), 3, LAYER + TABLE + FINAL_NORM),
        # Tied tables lie on both ends.
        (TIED, pipeline(4), 0, LAYER + TABLE),
        (TIED, pipeline(4), 3, LAYER + TABLE + FINAL_NORM),
        (SMALL, virtual(2, 2), 0, 2 * LAYER + TABLE),
        (SMALL, {**tensor(2), **pipeline(2)}, 1, 2 * (MATRICES // 2 + 8) + TABLE // 2 + FINAL_NORM),
        # The bias is split like the matrix it belongs to; the head norms are on every rank.
        (dataclasses.replace(SMALL, add_qkv_bias=True), tensor(2), 0, 4 * (MATRICES // 2 + 8 + 6) + TABLE + FINAL_NORM),
        (dataclasses.replace(SMALL, qk_layernorm=True), tensor(2), 0, 4 * (MATRICES // 2 + 8 + 4) + TABLE + FINAL_NORM),
    ],
)
def test_parameters_of_a_rank(model: ModelConfig, layout: dict[str, Any], stage: int, expected: int) -> None:
    assert local_parameters(phase(model, **layout), stage) == expected


@pytest.mark.parametrize(
    ("layout", "world", "shards"),
    [
        ({}, 8, 8),
        ({"use_distributed_optimizer": False}, 8, 1),
        # Context-parallel ranks hold the same weights: they share the optimizer too.
        ({"context_parallel_size": 2}, 8, 8),
        (tensor(2), 8, 4),
    ],
)
def test_the_distributed_optimizer_divides_its_state_by_the_ranks_with_the_same_weights(
    layout: dict[str, Any], world: int, shards: int
) -> None:
    recipe = phase(**layout)
    assert memory(recipe, world).optimizer == local_parameters(recipe, 0) * 12 / shards
    assert memory(recipe, world).weights == local_parameters(recipe, 0) * 2


def test_fp8_keeps_matrices_twice_in_fp8_and_once_in_bf16() -> None:
    found = memory(phase(WIDE, precision=Precision.FP8), 1).weights
    assert found == 4 * 16 * MATRICES * (2 + 1 + 1) + 2 * 4 * (4 * 8 + 2 * TABLE + FINAL_NORM)


def test_what_a_layer_keeps() -> None:
    # Per token in fp32: twice input, normalised input and output of a norm (4 each) and its root; query, key and value's projection
    # (12), query, key and result (4 each), log-sum-exp (2); gate and up (16), SiLU, up and product (8 each).
    numbers = 2 * (3 * 4 + 1) + 12 + 3 * 4 + 2 + 16 + 3 * 8
    # Per position, whatever the micro-batch: cosine and sine for query and key heads of size 2.
    positions = 16 * 4 * 2
    fp32 = Tensors(phase(precision=Precision.FP32), Modules.LOCAL)
    assert fp32.layer(Recompute()) == 4 * (TOKENS * numbers + positions)
    # In bf16 the norms' inputs, their roots and log-sum-exp stay in fp32.
    bf16 = Tensors(phase(), Modules.LOCAL)
    assert bf16.layer(Recompute()) == fp32.layer(Recompute()) / 2 + 2 * TOKENS * (2 * (2 * 4 + 1) + 2)
    # Transformer Engine keeps a norm's input as it is, and not normalised.
    engine = Tensors(phase(), Modules.TRANSFORMER_ENGINE)
    assert bf16.layer(Recompute()) - engine.layer(Recompute()) == TOKENS * 2 * (2 * 4 * 4 - 2 * 4)
    # So do torch's kernels on a GPU.
    assert Tensors(phase(), Modules.GPU).layer(Recompute()) == engine.layer(Recompute())


def test_what_a_layer_keeps_in_fp8() -> None:
    # The four matrices' inputs take a byte each, and attention keeps its result besides.
    bf16, fp8 = (
        Tensors(phase(WIDE, precision=precision), Modules.TRANSFORMER_ENGINE)
        for precision in (Precision.BF16, Precision.FP8)
    )
    assert bf16.layer(Recompute()) - fp8.layer(Recompute()) == TOKENS * (2 * 16 + 32 - 16)


def test_what_the_output_keeps() -> None:
    fp32 = Tensors(phase(precision=Precision.FP32), Modules.LOCAL)
    assert fp32.output == TOKENS * (4 * (3 * 4 + 1) + 4 * 10 + 9)


@pytest.mark.parametrize(
    ("recompute", "layers", "inputs"),
    [
        (Recompute(), 4, 0),
        (Recompute(granularity=RecomputeGranularity.FULL), 0, 4),
        (Recompute(granularity=RecomputeGranularity.FULL, num_layers=2), 0, 2),
        (Recompute(granularity=RecomputeGranularity.FULL, method=RecomputeMethod.BLOCK, num_layers=3), 1, 3),
    ],
)
def test_recomputed_layers_keep_their_input(recompute: Recompute, layers: int, inputs: int) -> None:
    tensors = Tensors(phase(precision=Precision.FP32), Modules.LOCAL)
    angles = 4 * 16 * 2 if inputs else 0
    assert tensors.layers(recompute) == layers * tensors.layer(Recompute()) + inputs * TOKENS * 4 * 4 + angles


@pytest.mark.parametrize(
    ("modules", "saved"),
    [
        (("core_attn",), TOKENS * 4 * 2),
        (("mlp",), TOKENS * 4 * (16 + 24)),
        (("core_attn", "mlp"), TOKENS * 4 * (2 + 16 + 24)),
    ],
)
def test_selected_modules_keep_less(modules: tuple[str, ...], saved: int) -> None:
    tensors = Tensors(phase(precision=Precision.FP32), Modules.LOCAL)
    recompute = Recompute(granularity=RecomputeGranularity.SELECTIVE, modules=modules)
    assert tensors.layer(Recompute()) - tensors.layer(recompute) == saved


def test_sequence_parallelism_splits_what_tensor_parallelism_does_not() -> None:
    split, whole = (Tensors(phase(**tensor(2), sequence_parallel=value), Modules.LOCAL) for value in (True, False))
    norms = 2 * TOKENS * (4 * (2 * 4 + 1) + 2 * 4)
    assert whole.layer(Recompute()) - split.layer(Recompute()) == norms // 2


def test_context_parallelism_splits_tokens_but_keeps_all_keys_and_values() -> None:
    alone, shared = (Tensors(phase(context_parallel_size=size), Modules.LOCAL) for size in (1, 2))
    # Half of the tokens, and per token of these: keys and values of both halves for its own projection and keys, a second result.
    # Besides, for queries of 4 positions that see 8 and 12 keys, masks.
    more = TOKENS // 2 * 2 * (2 * 2 * 4 - (12 + 4) + 4) + 2 * (4 * 8 + 4 * 12)
    assert shared.layer(Recompute()) == alone.layer(Recompute()) // 2 + more


@pytest.mark.parametrize(
    ("layout", "microbatches", "expected"),
    [
        ({}, 8, [1]),
        (pipeline(4), 8, [4, 3, 2, 1]),
        (pipeline(4), 2, [2, 2, 2, 1]),
        # Chunks of half the layers: twice the ranks behind, and one round of all ranks for each chunk but the last.
        (virtual(2, 2), 8, [5, 3]),
        (virtual(2, 2), 2, [4, 3]),
    ],
)
def test_microbatches_in_flight(layout: dict[str, Any], microbatches: int, expected: list[int]) -> None:
    assert [in_flight(phase(**layout), microbatches, stage) for stage in range(len(expected))] == expected


def test_the_fullest_stage() -> None:
    # A large vocabulary fills the last stage, many micro-batches in flight the first.
    logits = dataclasses.replace(SMALL, vocab_size=10_000)
    assert memory(phase(logits, **pipeline(4)), 4).stage == 3
    assert memory(phase(**pipeline(4)), 4).stage == 0


@pytest.mark.parametrize(
    ("model", "settings", "moment"),
    [
        ({"vocab_size": 1_000}, {}, "loss"),
        ({"vocab_size": 1_000}, {"precision": Precision.FP32}, "backward pass of the output layer"),
        ({"ffn_hidden_size": 800}, {"precision": Precision.FP32}, "backward pass of a layer"),
        ({"hidden_size": 400, "ffn_hidden_size": 4_000}, {"precision": Precision.FP32}, "reduction of the gradients"),
        # The AdamW of torch makes two tensors as large as the table, its gradient is one.
        (
            {"vocab_size": 10_000, "hidden_size": 400},
            {"use_distributed_optimizer": False, "precision": Precision.FP32},
            "optimizer step",
        ),
    ],
)
def test_the_moment_that_takes_most(model: dict[str, Any], settings: dict[str, Any], moment: str) -> None:
    assert memory(phase(dataclasses.replace(SMALL, **model), **settings), 1).activations.moment == moment


def per_gpu(name: str, gpus: int, **changes: Any) -> Memory:
    return memory(dataclasses.replace(recipes.load(name), **changes), gpus)


def test_8b_fits_80_gb_with_two_tensor_ranks_and_not_with_one() -> None:
    assert per_gpu("llama31_8b.stable", 64).total < 80e9
    assert per_gpu("llama31_8b.stable", 64, parallelism=Parallelism()).total > 80e9


def test_recomputation_saves_gigabytes_of_the_3b() -> None:
    kept = per_gpu("llama32_3b.stable", 64)
    again = per_gpu("llama32_3b.stable", 64, recompute=Recompute(granularity=RecomputeGranularity.FULL))
    assert again.activations.total < 0.5 * kept.activations.total
    assert again.weights == kept.weights


def test_ranks_that_do_not_divide() -> None:
    with pytest.raises(ConfigError, match="12 ranks do not divide into TP 2 x PP 1 x CP 4; use a multiple of 8"):
        memory(phase(**tensor(2), context_parallel_size=4), 12)
