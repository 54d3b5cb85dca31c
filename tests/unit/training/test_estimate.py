"""Costs by arithmetic, against published totals and sums done by hand."""

import dataclasses

import pytest

from megatron_octo import recipes
from megatron_octo.errors import ConfigError
from megatron_octo.training import estimate
from megatron_octo.training.config import MidTraining, ModelConfig, Parallelism, Precision, blend

# Small enough to add up by hand: a layer has query 4x4, key and value 4x2 each, output 4x4, gate, up, down 3x4x8, norms 2x4.
SMALL = ModelConfig(
    num_layers=2,
    hidden_size=4,
    ffn_hidden_size=8,
    num_attention_heads=2,
    num_query_groups=1,
    kv_channels=2,
    vocab_size=10,
    max_position_embeddings=64,
)
SMALL_LAYER_MATRICES = 16 + 16 + 16 + 96


def small_run(
    *, precision: Precision = Precision.BF16, distributed: bool = True, tensor: int = 1, pipeline: int = 1
) -> MidTraining:
    model = dataclasses.replace(SMALL, num_query_groups=2) if tensor == 2 else SMALL
    recipe: MidTraining = recipes.load("llama32_3b.stable")
    return dataclasses.replace(
        recipe,
        model=model,
        seq_length=16,
        micro_batch_size=3,
        precision=precision,
        parallelism=Parallelism(
            tensor_model_parallel_size=tensor,
            pipeline_model_parallel_size=pipeline,
            use_distributed_optimizer=distributed,
        ),
    )


@pytest.mark.parametrize(
    ("model", "parameters"),
    # The totals Hugging Face shows for the three checkpoints.
    [("llama32_1b", 1_235_814_400), ("llama32_3b", 3_212_749_824), ("llama31_8b", 8_030_261_248)],
)
def test_parameters_of_the_published_models(model: str, parameters: int) -> None:
    assert estimate.parameters(recipes.load(f"{model}.stable").model) == parameters


@pytest.mark.parametrize(
    ("model", "seq_length", "gigaflops"),
    [
        ("llama32_1b", 8192, 9.03),
        ("llama32_3b", 8192, 23.50),
        # 14,451 tokens/s/GPU x 51.47 GFLOP = the 744 TFLOP/s NVIDIA publishes beside that rate.
        ("llama31_8b", 8192, 51.47),
        ("llama32_3b", 4096, 21.39),
        ("llama31_8b", 32768, 70.80),
    ],
)
def test_flops_per_token(model: str, seq_length: int, gigaflops: float) -> None:
    flops = estimate.flops_per_token(recipes.load(f"{model}.stable").model, seq_length)
    assert flops / 1e9 == pytest.approx(gigaflops, abs=0.005)


def test_parameters_and_flops_by_hand() -> None:
    assert estimate.parameters(SMALL) == 2 * (SMALL_LAYER_MATRICES + 8) + 2 * 40 + 4
    tied = dataclasses.replace(SMALL, share_embeddings_and_output_weights=True)
    assert estimate.parameters(tied) == estimate.parameters(SMALL) - 40
    assert estimate.flops_per_token(SMALL, 16) == 6 * (2 * SMALL_LAYER_MATRICES + 40) + 6 * 2 * 4 * 16


def test_memory_of_one_gpu_by_hand() -> None:
    memory = estimate.memory(small_run(), world_size=1)
    parameters = 2 * (SMALL_LAYER_MATRICES + 8) + 80 + 4
    assert (memory.weights, memory.gradients, memory.optimizer) == (2 * parameters, 4 * parameters, 12 * parameters)
    # 48 tokens; per layer 4 hidden + 2 queries + key and value + 3 FFN, two bytes each; logits of 10 in bf16 and fp32.
    assert memory.activations == 48 * (2 * 2 * (16 + 8 + 4 + 24) + 60)
    assert memory.total == 18 * parameters + memory.activations


def test_the_distributed_optimizer_divides_its_state_by_the_ranks() -> None:
    one = estimate.memory(small_run(), world_size=1)
    assert estimate.memory(small_run(), world_size=8).optimizer == one.optimizer / 8
    assert estimate.memory(small_run(distributed=False), world_size=8).optimizer == one.optimizer
    assert estimate.memory(small_run(), world_size=8).weights == one.weights


def test_fp32_has_no_second_copy_of_the_weights() -> None:
    memory = estimate.memory(small_run(precision=Precision.FP32), world_size=1)
    assert memory.weights == memory.gradients == memory.optimizer / 2


def test_tensor_parallelism_splits_matrices_but_not_norms() -> None:
    whole = 2 * (SMALL_LAYER_MATRICES + 16)  # two key/value heads instead of one
    assert estimate.local_parameters(small_run(tensor=2)) == whole / 2 + 2 * 8 + 40 + 4


def test_a_pipeline_stage_has_its_layers_and_one_table() -> None:
    assert estimate.local_parameters(small_run(pipeline=2)) == SMALL_LAYER_MATRICES + 8 + 40 + 4


def test_8b_fits_80_gb_with_two_tensor_ranks_and_not_with_one() -> None:
    recipe = recipes.load("llama31_8b.stable")
    alone = dataclasses.replace(recipe, parallelism=Parallelism())
    assert estimate.memory(recipe, world_size=64).total < 60e9
    assert estimate.memory(alone, world_size=64).total > 80e9


def test_ranks_that_do_not_divide() -> None:
    with pytest.raises(ConfigError, match="9 ranks do not divide into TP 2 x PP 1; use a multiple of 2"):
        estimate.memory(recipes.load("llama31_8b.stable"), world_size=9)


def test_corpus_uses() -> None:
    sizes = {"web": 1_000, "qa": 100}
    web, qa, mine = estimate.corpus_uses(blend(web=0.5, qa=0.3, mine=0.2), 1_000, sizes.get)
    assert (web.tokens, web.epochs, web.distinct_tokens) == (500, 0.5, 500)
    assert (qa.tokens, qa.epochs, qa.distinct_tokens) == (300, 3, 100)
    assert (mine.tokens, mine.epochs, mine.distinct_tokens) == (200, None, 200)


@pytest.mark.parametrize(("vocab_size", "expected"), [(512, 2), (65_499, 2), (65_500, 4), (128_256, 4)])
def test_token_bytes(vocab_size: int, expected: int) -> None:
    assert estimate.token_bytes(vocab_size) == expected


def test_token_bytes_are_megatrons() -> None:
    indexed_dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    for vocab_size in (65_499, 65_500):
        dtype = indexed_dataset.DType.optimal_dtype(vocab_size)
        assert estimate.token_bytes(vocab_size) == indexed_dataset.DType.size(dtype)


def test_checkpoint_and_hours() -> None:
    assert estimate.checkpoint_bytes(recipes.load("llama32_1b.stable")) == 14 * 1_235_814_400
    assert estimate.gpu_hours(tokens=3_600_000, tokens_per_second_per_gpu=500) == 2
