"""What a phase refuses, and the steps, batches and branches that follow from it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_phase import stable

from megatron_octo import recipes
from megatron_octo.config import at_run_time, override
from megatron_octo.errors import ConfigError
from megatron_octo.training.blend import Blend, Share, blend
from megatron_octo.training.config import (
    Anomalies,
    MidTraining,
    ModelConfig,
    Optimizer,
    OptimizerState,
    RunOptions,
    TrainingJob,
    Validation,
)
from megatron_octo.training.parallelism import Parallelism
from megatron_octo.training.precision import Precision
from megatron_octo.training.recompute import Recompute, RecomputeGranularity, RecomputeMethod
from megatron_octo.training.schedule import LearningRateStyle, Schedule


def test_steps_and_tokens() -> None:
    phase = dataclasses.replace(stable(), train_tokens=10 * 4096 + 2048, save_interval_tokens=2 * 4096 + 1)
    assert (phase.tokens_per_step, phase.train_iters, phase.trained_tokens) == (4096, 11, 11 * 4096)
    assert phase.save_interval == 2
    assert dataclasses.replace(phase, save_interval_tokens=4096).save_interval == 1


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"web": 0.9, "qa": 0.2}, "must sum to 1, these sum to 1.1: web 0.9 + qa 0.2"),
        ({"web": 0.9}, "must sum to 1, these sum to 0.9"),
        ({"web": 0.333, "qa": 0.667, "code": 0.0}, "the share of 'code' is 0; shares lie above 0"),
        ({"web": 1.5, "qa": -0.5}, "the share of 'web' is 1.5"),
        ({}, "must sum to 1"),
    ],
)
def test_blends_that_cannot_be(shares: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        blend(**shares)
    assert message in str(caught.value)


@pytest.mark.parametrize("weights", [[0.1] * 10, [0.7, 0.2, 0.1], [0.55, 0.1, 0.05, 0.15, 0.15], [1.0]])
def test_decimals_that_sum_to_one_do(weights: list[float]) -> None:
    assert len(Blend(shares=tuple(Share(corpus=f"c{i}", weight=w) for i, w in enumerate(weights))).shares) == len(
        weights
    )


def test_a_corpus_appears_once() -> None:
    with pytest.raises(ConfigError, match="appears twice"):
        Blend(shares=(Share(corpus="web", weight=0.5), Share(corpus="web", weight=0.5)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peak_lr": 1e-4, "min_lr": 2e-4}, "need 0 <= min_lr <= peak_lr"),
        ({"peak_lr": 0.0, "min_lr": 0.0}, "peak_lr > 0"),
        ({"peak_lr": 1e-4, "min_lr": -1e-5}, "need 0 <= min_lr"),
        ({"peak_lr": 1e-4, "min_lr": 1e-5, "style": LearningRateStyle.CONSTANT}, "a constant schedule has one"),
        ({"peak_lr": 1e-4, "min_lr": 1e-5, "style": LearningRateStyle.WSD}, "WSD needs both, the other styles neither"),
        (
            {"peak_lr": 1e-4, "min_lr": 1e-5, "style": LearningRateStyle.WSD, "wsd_decay_tokens": 1_000},
            "style WSD with wsd_decay_tokens 1000 and wsd_decay_style None",
        ),
        (
            {
                "peak_lr": 1e-4,
                "min_lr": 1e-5,
                "wsd_decay_tokens": 1_000,
                "wsd_decay_style": LearningRateStyle.LINEAR,
            },
            "style cosine with wsd_decay_tokens 1000 and wsd_decay_style linear",
        ),
        (
            {
                "peak_lr": 1e-4,
                "min_lr": 1e-5,
                "style": LearningRateStyle.WSD,
                "wsd_decay_tokens": 1_000,
                "wsd_decay_style": LearningRateStyle.CONSTANT,
            },
            "wsd_decay_style constant does not decay; allowed: cosine, linear, minus_sqrt, exponential",
        ),
    ],
)
def test_schedules_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Schedule(**{"style": LearningRateStyle.COSINE, **settings})


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train_tokens=1000", "train_tokens 1,000 is less than one step of 4,096 tokens"),
        ("seq_length=1024", "seq_length 1024 exceeds the model's max_position_embeddings 512"),
        ("schedule.warmup_tokens=2e9", "leave nothing of"),
        ("parallelism.tensor_model_parallel_size=3", "2 query groups do not divide by tensor_model_parallel_size 3"),
        ("model.vocab_size=383", None),
        ("parallelism.pipeline_model_parallel_size=2", "3 layers do not divide by pipeline_model_parallel_size 2"),
        ("model.num_query_groups=3", "4 attention heads do not divide into 3 query groups"),
        ("global_batch_size=0", "global_batch_size is 0"),
        ("micro_batch_size=0", "micro_batch_size is 0"),
        ("seq_length=-1", "seq_length is -1"),
        ("parallelism.tensor_model_parallel_size=0", "tensor_model_parallel_size is 0"),
        ("parallelism.pipeline_model_parallel_size=0", "pipeline_model_parallel_size is 0"),
        ("model.num_query_groups=0", "num_query_groups is 0"),
        ("keep_checkpoints=0", "keep_checkpoints is 0"),
        ("init_method_std=0", "init_method_std is 0; it lies above 0"),
        ("save_interval_tokens=4095", "save_interval_tokens 4,095 is less than one step of 4,096 tokens"),
    ],
)
def test_phases_that_cannot_be(assignment: str, message: str | None) -> None:
    if message is None:
        override(stable(), [assignment])
        return
    with pytest.raises(ConfigError) as caught:
        override(stable(), [assignment])
    assert message in str(caught.value)


def test_an_odd_vocabulary_is_refused_with_tensor_parallelism_only() -> None:
    odd = override(stable(), ["model.vocab_size=383"])
    with pytest.raises(ConfigError, match="383 vocabulary entries do not divide by tensor_model_parallel_size 2"):
        override(odd, ["parallelism.tensor_model_parallel_size=2"])


def test_microbatches() -> None:
    assert [stable().num_microbatches(world) for world in (1, 2)] == [2, 1]
    with pytest.raises(ConfigError, match=r"16 does not divide by micro_batch_size 8 x 4 data-parallel ranks = 32"):
        stable().num_microbatches(4)


def test_virtual_stages_need_whole_rounds_of_microbatches() -> None:
    # 16 sequences: 4 micro-batches on 4 pipeline ranks are one round, 2 are not.
    model = dataclasses.replace(stable().model, num_layers=8)
    layout = Parallelism(pipeline_model_parallel_size=4, virtual_pipeline_model_parallel_size=2)
    phase = dataclasses.replace(stable(), model=model, parallelism=layout, micro_batch_size=4)
    assert phase.num_microbatches(4) == 4
    with pytest.raises(ConfigError, match="2 micro-batches per rank do not divide by pipeline_model_parallel_size 4"):
        phase.num_microbatches(8)


def test_a_decay_at_the_end_of_the_phase() -> None:
    def decaying(tokens: int) -> MidTraining:
        schedule = Schedule(
            style=LearningRateStyle.WSD, peak_lr=1e-3, min_lr=0.0, warmup_tokens=4096, wsd_decay_tokens=tokens,
            wsd_decay_style=LearningRateStyle.LINEAR,
        )  # fmt: skip
        return dataclasses.replace(stable(), schedule=schedule)

    assert decaying(899 * 4096).schedule.wsd_decay_tokens == 899 * 4096
    for tokens in (0, 899 * 4096 + 1):
        with pytest.raises(ConfigError, match=f"wsd_decay_tokens {tokens:,} do not fit"):
            decaying(tokens)


def test_caps_on_repetition() -> None:
    capped = blend(web=0.9, qa=0.1).capped(qa=4)
    assert [share.max_epochs for share in capped.shares] == [None, 4]
    assert [share.weight for share in capped.shares] == [0.9, 0.1]
    assert [share.max_epochs for share in capped.capped(web=1.5).shares] == [1.5, 4]
    with pytest.raises(ConfigError, match="the blend has no corpus 'qna'; nearest: qa"):
        capped.capped(qna=1)
    with pytest.raises(ConfigError, match="max_epochs of 'qa' is 0; it lies above 0, or none for no cap"):
        capped.capped(qa=0)


def test_checkpoints_that_stay() -> None:
    phase = dataclasses.replace(stable(), keep_every_tokens=600 * 4096)
    assert (phase.save_interval, phase.keep_every) == (200, 600)
    assert stable().keep_every is None
    with pytest.raises(ConfigError, match="keep_every_tokens 4,095 is less than one step of 4,096 tokens"):
        dataclasses.replace(stable(), keep_every_tokens=4095)
    with pytest.raises(ConfigError, match="keep_every_tokens is 300 steps and save_interval_tokens 200"):
        dataclasses.replace(stable(), keep_every_tokens=300 * 4096)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recompute(modules=("core_atn",)), "'core_atn' cannot be recomputed by itself; nearest: core_attn"),
        (lambda: Recompute(num_layers=0), "num_layers is 0; it must be at least 1"),
        (lambda: Anomalies(spike_factor=1.0), "spike_factor 1.0 and max_skipped_steps 10: a factor lies above 1"),
        (lambda: Anomalies(max_skipped_steps=-1), "max_skipped_steps -1"),
        (lambda: Anomalies(window=0), "window is 0"),
        (lambda: Validation(blend=blend(web=1.0), tokens=0, interval_tokens=1), "tokens is 0"),
        (lambda: Validation(blend=blend(web=1.0), tokens=1, interval_tokens=0), "interval_tokens is 0"),
        # Megatron-Core recomputes a norm by itself with Transformer Engine only.
        (
            lambda: Recompute(modules=("layernorm",)),
            "'layernorm' cannot be recomputed by itself; allowed: core_attn, mlp",
        ),
        (lambda: RunOptions(watchdog_seconds=0.0), "watchdog_seconds is 0; no step is that short: give at least 1"),
        (lambda: RunOptions(watchdog_seconds=0.9), "watchdog_seconds is 0.9; no step is that short: give at least 1"),
        (
            lambda: Recompute(modules=()),
            "recompute.modules is empty; name some of core_attn, mlp, or set granularity=none",
        ),
        (
            lambda: Optimizer(weight_decay=-0.1),
            "weight_decay -0.1, adam_eps 1e-08, clip_grad 1.0: decay lies at 0 or above",
        ),
        (lambda: Optimizer(adam_eps=0.0), "adam_eps 0, clip_grad 1.0"),
        (lambda: Optimizer(clip_grad=0.0), "clip_grad above 0 (clip_grad none does not clip)"),
        (lambda: Optimizer(adam_beta2=1.0), "adam_beta2 is 1; it lies from 0 up to below 1"),
    ],
)
def test_settings_that_cannot_be(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert message in str(caught.value)


def pipelined(recompute: Recompute, **layout: Any) -> MidTraining:
    """Twelve layers over so many stages and chunks."""
    return dataclasses.replace(
        stable(), model=dataclasses.replace(stable().model, num_layers=12), recompute=recompute, parallelism=Parallelism(**layout)
    )  # fmt: skip


FULL, BLOCK = RecomputeGranularity.FULL, RecomputeMethod.BLOCK
TWO_STAGES = {"pipeline_model_parallel_size": 2}
THREE_STAGES_OF_TWO_CHUNKS = {"pipeline_model_parallel_size": 3, "virtual_pipeline_model_parallel_size": 2}


@pytest.mark.parametrize(
    ("recompute", "layout", "message"),
    [
        (
            Recompute(granularity=FULL, num_layers=13),
            {},
            "num_layers 13 with method uniform does not fit the 12 layers",
        ),
        (
            Recompute(granularity=FULL, num_layers=4),
            TWO_STAGES,
            "num_layers 4 with method uniform does not fit the 6 layers of a pipeline stage or chunk; uniform takes a divisor of 6, "
            "block at most 6",
        ),
        (Recompute(granularity=FULL, method=BLOCK, num_layers=7), TWO_STAGES, "7 with method block does not fit the 6"),
        (
            Recompute(granularity=FULL, method=BLOCK, num_layers=3),
            THREE_STAGES_OF_TWO_CHUNKS,
            "3 with method block does not fit the 2 layers",
        ),
    ],
)
def test_recomputed_layers_fit_a_model_chunk(recompute: Recompute, layout: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        pipelined(recompute, **layout)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("recompute", "layout"),
    [
        (Recompute(granularity=FULL, num_layers=12), {}),
        (Recompute(granularity=FULL, num_layers=3), TWO_STAGES),
        (Recompute(granularity=FULL, method=BLOCK, num_layers=4), TWO_STAGES),
        (Recompute(granularity=FULL, num_layers=2), THREE_STAGES_OF_TWO_CHUNKS),
        # Without effect.
        (Recompute(num_layers=13), {}),
    ],
)
def test_recomputed_layers_that_fit(recompute: Recompute, layout: dict[str, int]) -> None:
    assert pipelined(recompute, **layout).recompute == recompute


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["model.hidden_size=100"], "hidden_size: 100 is no multiple of 16, which fp8 needs; set precision=bf16"),
        (["model.ffn_hidden_size=264"], "ffn_hidden_size per tensor-parallel rank: 264 is"),
        (
            ["model.ffn_hidden_size=272", "parallelism.tensor_model_parallel_size=2"],
            "ffn_hidden_size per tensor-parallel rank: 136 is",
        ),
        (["model.kv_channels=26"], "query columns per tensor-parallel rank: 104 is"),
        (["seq_length=250", "micro_batch_size=1"], "tokens of a micro-batch: 250 is"),
        (
            ["seq_length=48", "micro_batch_size=1", "parallelism.context_parallel_size=2"],
            "tokens of a micro-batch: 24 is",
        ),
    ],
)
def test_fp8_needs_matrices_of_multiples_of_16(assignments: list[str], message: str) -> None:
    assert override(stable(), ["precision=fp8"]).precision is Precision.FP8
    uneven = override(stable(), assignments)
    with pytest.raises(ConfigError) as caught:
        dataclasses.replace(uneven, precision=Precision.FP8)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["fp8.num_layers_at_end_in_bf16=-1"], "0 at the start, -1 at the end; give 0 or more"),
        (["fp8.recipe=delayed", "fp8.num_layers_at_start_in_bf16=1"], "fp8.recipe delayed keeps no layers in bf16"),
        (["precision=fp8", "fp8.num_layers_at_start_in_bf16=100"], "100 layers at one end of the model"),
    ],
)
def test_layers_in_bf16_must_be_some_the_model_has(assignments: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override(stable(), assignments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("tokens", "interval_tokens", "message"),
    [(4095, 4096, "validation.tokens 4,095 is less"), (4096, 4095, "validation.interval_tokens 4,095 is less")],
)
def test_a_validation_reads_whole_steps(tokens: int, interval_tokens: int, message: str) -> None:
    validation = Validation(blend=blend(held_out=1.0), tokens=tokens, interval_tokens=interval_tokens)
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(stable(), validation=validation)


def test_validation_reads_what_the_run_does_not_train_on() -> None:
    def validated(**weights: float) -> MidTraining:
        validation = Validation(blend=blend(**weights), tokens=4096, interval_tokens=4096)
        return dataclasses.replace(stable(), validation=validation)

    assert validated(held_out=1.0).corpora == ["web", "qa", "held_out"]
    with pytest.raises(
        ConfigError, match="validation reads qa, web, which the run trains on; give it corpora of its own"
    ):
        validated(held_out=0.5, web=0.25, qa=0.25)


def test_what_none_of_the_learning_depends_on_may_change() -> None:
    job = TrainingJob(recipe=stable(), shards=Path("shards"))
    assert {
        "recipe.micro_batch_size", "recipe.parallelism", "recipe.recompute", "recipe.save_interval_tokens",
        "recipe.keep_checkpoints", "recipe.keep_every_tokens", "options",
    } <= at_run_time(job)  # fmt: skip
    learned = {
        "blend",
        "train_tokens",
        "seq_length",
        "global_batch_size",
        "schedule",
        "optimizer",
        "precision",
        "fp8",
        "seed",
    }
    assert not {f"recipe.{field}" for field in learned} & at_run_time(job)


def test_a_branch_changes_what_it_says_and_no_more() -> None:
    schedule = Schedule(style=LearningRateStyle.LINEAR, peak_lr=1e-3, min_lr=0.0)
    branch = stable().branch(
        name="b", blend=blend(qa=1.0), train_tokens=8192, schedule=schedule, optimizer_state=OptimizerState.RESET
    )
    changed = {
        field.name
        for field in dataclasses.fields(branch)
        if getattr(branch, field.name) != getattr(stable(), field.name)
    }
    assert changed == {"name", "blend", "train_tokens", "schedule", "branch_point"}
    assert branch.branch_point is not None
    assert branch.branch_point.parent == "stable"
    assert branch.branch_point.at_tokens == stable().trained_tokens
    assert branch.branch_point.optimizer_state is OptimizerState.RESET


@pytest.mark.parametrize("at_tokens", [0, 10**12])
def test_a_branch_leaves_its_parent_while_it_trains(at_tokens: int) -> None:
    with pytest.raises(ConfigError, match=f"b leaves stable at {at_tokens:,} tokens"):
        stable().branch(
            name="b", blend=blend(qa=1.0), train_tokens=8192, schedule=stable().schedule, at_tokens=at_tokens
        )


def test_a_model_is_as_the_family_writes_it() -> None:
    model: ModelConfig = recipes.load("llama32_3b.stable").model
    assert (model.num_layers, model.hidden_size, model.num_attention_heads, model.num_query_groups) == (28, 3072, 24, 8)
