"""Layouts: which are refused, with what was given, what is allowed and what to do; and what the accepted ones mean."""

import dataclasses
import itertools
import math
import re
from typing import Any

import pytest

from megatron_octo.errors import ConfigError
from megatron_octo.training.config import ModelConfig
from megatron_octo.training.parallelism import PROPOSALS, Parallelism

MODEL = ModelConfig(
    num_layers=28, hidden_size=96, ffn_hidden_size=256, num_attention_heads=24, num_query_groups=8, kv_channels=4,
    vocab_size=1024, max_position_embeddings=8192,
)  # fmt: skip
SEQ_LENGTH = 4096


def layout(
    tensor: int = 1, pipeline: int = 1, context: int = 1, *, chunks: int | None = None, **others: bool
) -> Parallelism:
    return Parallelism(
        tensor_model_parallel_size=tensor, pipeline_model_parallel_size=pipeline, context_parallel_size=context,
        virtual_pipeline_model_parallel_size=chunks, **others,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "given", "way_out"),
    [
        ({"tensor_model_parallel_size": 0}, "tensor_model_parallel_size is 0", "at least 1"),
        ({"pipeline_model_parallel_size": -1}, "pipeline_model_parallel_size is -1", "at least 1"),
        ({"context_parallel_size": 0}, "context_parallel_size is 0", "at least 1"),
        (
            {"pipeline_model_parallel_size": 4, "virtual_pipeline_model_parallel_size": 1},
            "virtual_pipeline_model_parallel_size 1 with pipeline_model_parallel_size 4",
            "leave virtual stages at none",
        ),
        (
            {"virtual_pipeline_model_parallel_size": 2},
            "virtual_pipeline_model_parallel_size 2 with pipeline_model_parallel_size 1",
            "both must be at least 2",
        ),
        # Megatron-Core runs this one and trains on wrong gradients.
        (
            {"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 2},
            "pipeline_model_parallel_size 2 train on wrong gradients",
            "overlap_p2p_comm=true",
        ),
        (
            {"pipeline_model_parallel_size": 4, "overlap_p2p_comm": True},
            "overlap_p2p_comm works with virtual stages only",
            "set virtual_pipeline_model_parallel_size",
        ),
        ({"sequence_parallel": True}, "tensor_model_parallel_size is 1", "set sequence_parallel=false"),
        (
            {"overlap_param_gather": True, "overlap_grad_reduce": True, "use_distributed_optimizer": False},
            "overlap_param_gather needs",
            "use_distributed_optimizer=true",
        ),
        ({"overlap_param_gather": True}, "overlap_param_gather needs", "overlap_grad_reduce=true"),
    ],
)
def test_layouts_that_cannot_be(settings: dict[str, Any], given: str, way_out: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Parallelism(**settings)
    assert given in str(caught.value)
    assert way_out in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"pipeline": 2, "chunks": 2, "overlap_p2p_comm": True},
        {"pipeline": 4, "chunks": 2},
        {"pipeline": 4, "chunks": 2, "overlap_p2p_comm": True},
        {"tensor": 2, "sequence_parallel": True},
        {"overlap_grad_reduce": True, "overlap_param_gather": True},
        {"overlap_grad_reduce": True, "use_distributed_optimizer": False},
    ],
)
def test_their_neighbours_can(settings: dict[str, Any]) -> None:
    layout(**settings).require_fits(dataclasses.replace(MODEL, num_layers=16), SEQ_LENGTH)


@pytest.mark.parametrize(
    ("given", "model", "seq_length", "message"),
    [
        (layout(3), {}, SEQ_LENGTH, "8 query groups do not divide by tensor_model_parallel_size 3"),
        (
            layout(8),
            {"ffn_hidden_size": 100},
            SEQ_LENGTH,
            "100 FFN columns do not divide by tensor_model_parallel_size 8",
        ),
        (
            layout(8),
            {"vocab_size": 1001},
            SEQ_LENGTH,
            "1,001 vocabulary entries do not divide by tensor_model_parallel_size 8",
        ),
        (layout(1, 8), {}, SEQ_LENGTH, "28 layers do not divide by pipeline_model_parallel_size 8"),
        (
            layout(1, 4, chunks=2),
            {},
            SEQ_LENGTH,
            "28 layers do not divide by pipeline_model_parallel_size 4 x 2 virtual stages",
        ),
        (
            layout(2, sequence_parallel=True),
            {},
            4097,
            "4,097 tokens of a sequence do not divide by 2 = tensor_model_parallel_size 2 (sequence_parallel)",
        ),
        (layout(1, 1, 2), {}, 4098, "4,098 tokens of a sequence do not divide by 4 = 2 x context_parallel_size 2"),
        (
            layout(2, 1, 2, sequence_parallel=True),
            {},
            4100,
            "4,100 tokens of a sequence do not divide by 8 = 2 x context_parallel_size 2 x tensor_model_parallel_size 2",
        ),
    ],
)
def test_what_does_not_divide_is_named(
    given: Parallelism, model: dict[str, int], seq_length: int, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        given.require_fits(dataclasses.replace(MODEL, **model), seq_length)  # type: ignore[arg-type]  # all are sizes
    assert message in str(caught.value)


def proposals(message: str) -> list[tuple[int, ...]]:
    spelled = re.findall(r"TP (\d+) x PP (\d+) x CP (\d+)", message)
    return [tuple(map(int, sizes)) for sizes in spelled]


def test_the_nearest_layouts_are_proposed() -> None:
    with pytest.raises(ConfigError) as caught:
        layout(4, 8, 1).require_fits(MODEL, SEQ_LENGTH)
    # By the ratios that change: 8/7, then 2, then 2 and 8/7.
    assert proposals(str(caught.value)) == [(4, 7, 1), (4, 4, 1), (2, 7, 1)]


@pytest.mark.parametrize(
    ("tensor", "pipeline", "context", "chunks", "sequence_parallel", "overlap"),
    [
        case
        for case in itertools.product((1, 3, 4), (1, 3, 8), (1, 3), (None, 2, 3), (False, True), (False, True))
        # Not those that the layout refuses by itself.
        if not (case[4] and case[0] == 1) and not (case[3] and case[1] == 1) and not (case[5] and case[3] is None)
    ],
)
def test_what_is_proposed_fits_with_the_options_given(
    tensor: int, pipeline: int, context: int, chunks: int | None, sequence_parallel: bool, overlap: bool
) -> None:
    given = layout(
        tensor, pipeline, context, chunks=chunks, sequence_parallel=sequence_parallel, overlap_p2p_comm=overlap
    )
    said = refusal(given)
    if not said:
        return
    most = given.model_parallel_size
    fitting = {
        sizes
        for sizes in itertools.product(range(1, most + 1), repeat=3)
        if math.prod(sizes) <= most and fits(given, sizes)
    }
    found = proposals(said.partition("layouts that fit")[2])
    assert set(found) <= fitting
    assert len(found) == min(PROPOSALS, len(fitting))
    assert said.endswith("no smaller layout with these options fits") == (not fitting)


def refusal(given: Parallelism) -> str:
    try:
        given.require_fits(MODEL, SEQ_LENGTH)
    except ConfigError as error:
        return str(error)
    return ""


def fits(given: Parallelism, sizes: tuple[int, ...]) -> bool:
    """Whether the sizes can be set on a recipe that leaves everything else as given."""
    axes = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")
    try:
        other = dataclasses.replace(given, **dict(zip(axes, sizes, strict=True)))  # type: ignore[arg-type]  # all are sizes
        other.require_fits(MODEL, SEQ_LENGTH)
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize(
    ("given", "world", "expected"),
    [
        (layout(), 4, 4),
        (layout(2), 4, 2),
        (layout(2, 2), 4, 1),
        (layout(2, 1, 2), 16, 4),
        (layout(8), 64, 8),
        # Virtual stages take no ranks.
        (layout(1, 4, chunks=7), 8, 2),
    ],
)
def test_data_parallel_ranks(given: Parallelism, world: int, expected: int) -> None:
    assert given.data_parallel_size(world) == expected


@pytest.mark.parametrize("world", [0, 1, 12])
def test_a_world_that_does_not_divide(world: int) -> None:
    with pytest.raises(ConfigError, match=f"{world} ranks do not divide into TP 4 x PP 1 x CP 2; use a multiple of 8"):
        layout(4, 1, 2).data_parallel_size(world)
