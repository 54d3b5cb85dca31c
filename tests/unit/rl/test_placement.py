"""GPUs by role, and placements that OpenRLHF would wait for ever with or change."""

from typing import Any

import pytest

from megatron_octo.errors import ConfigError
from megatron_octo.rl.placement import Colocation, Needed, Placement


def test_sharing_all_gpus() -> None:
    assert Placement(nodes=2).needed(reference=True, critic=True) == Needed(
        actor=16, reference=16, critic=16, engines=16, total=16
    )
    assert Placement().needed(reference=False, critic=False) == Needed(
        actor=8, reference=0, critic=0, engines=8, total=8
    )


@pytest.mark.parametrize(
    ("colocation", "reference", "critic", "expected"),
    [
        (Colocation.ACTOR_REF, True, False, Needed(actor=8, reference=8, critic=0, engines=8, total=16)),
        (Colocation.ACTOR_REF, True, True, Needed(actor=4, reference=4, critic=4, engines=8, total=16)),
        (Colocation.NONE, True, False, Needed(actor=4, reference=4, critic=0, engines=8, total=16)),
        (Colocation.NONE, True, True, Needed(actor=2, reference=2, critic=2, engines=8, total=14)),
        (Colocation.NONE, False, False, Needed(actor=8, reference=0, critic=0, engines=8, total=16)),
    ],
)
def test_engines_apart_leave_the_rest_to_training(
    colocation: Colocation, reference: bool, critic: bool, expected: Needed
) -> None:
    placement = Placement(nodes=2, colocation=colocation, rollout_gpus=8)
    assert placement.needed(reference=reference, critic=critic) == expected


def test_a_role_beyond_one_node_takes_whole_nodes() -> None:
    placement = Placement(nodes=4, colocation=Colocation.ACTOR_REF, rollout_gpus=12)
    assert placement.needed(reference=False, critic=False).actor == 16
    assert placement.training_shape(16) == (2, 8)
    assert placement.training_shape(6) == (1, 6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"nodes": 0}, "nodes is 0"),
        ({"gpu_memory_utilization": 1.5}, "a share above 0"),
        ({"zero_stage": 9}, "DeepSpeed has 1, 2 and 3"),
        ({"rollout_gpus": 4}, "rollout_gpus is 4 with colocation=all"),
        ({"colocation": Colocation.NONE}, "rollout_gpus is None with colocation=none"),
        ({"engine_tensor_parallel_size": 3}, "does not divide the 8 GPUs of a node"),
        (
            {"colocation": Colocation.NONE, "rollout_gpus": 3, "engine_tensor_parallel_size": 2},
            "does not divide into engines of 2",
        ),
        ({"attention": "sdpa"}, "OpenRLHF would change it"),
        ({"packing": False, "max_tokens_per_gpu": None, "ring_attention_size": 2}, "need packing"),
        ({"packing": False}, "need packing"),
        ({"asynchronous": True}, "engines need GPUs of their own"),
    ],
)
def test_impossible_placements_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Placement(**fields)


def test_nothing_left_to_train_on() -> None:
    placement = Placement(colocation=Colocation.NONE, rollout_gpus=7)
    with pytest.raises(ConfigError, match="leave 1 for 2 separate models"):
        placement.needed(reference=True, critic=False)


@pytest.mark.parametrize(
    ("fields", "gpus"),
    [
        ({"colocation": Colocation.ACTOR_REF, "rollout_gpus": 2, "ring_attention_size": 4}, 6),
        ({"ring_attention_size": 3}, 8),
    ],
)
def test_a_ring_divides_the_policys_gpus(fields: dict[str, Any], gpus: int) -> None:
    with pytest.raises(ConfigError, match=f"does not divide the {gpus} GPUs of the policy"):
        Placement(**fields).needed(reference=False, critic=False)
