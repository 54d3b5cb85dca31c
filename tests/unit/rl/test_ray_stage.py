"""Which Ray cluster a Slurm step makes; a real one on real nodes: tests/openrlhf."""

import pytest

from megatron_octo.errors import ResourceError
from megatron_octo.rl.ray_stage import FIRST_PORT, NUM_PORTS, from_slurm


def test_without_slurm_it_is_this_machine_alone() -> None:
    cluster = from_slurm({}, head=None)
    assert (cluster.head, cluster.nodes, cluster.rank) == ("127.0.0.1", 1, 0)


def test_nodes_rank_and_port_come_from_the_step() -> None:
    step = {"SLURM_NNODES": "4", "SLURM_STEP_NUM_NODES": "2", "SLURM_NODEID": "1", "SLURM_JOB_ID": "100"}
    cluster = from_slurm(step, head="10.0.0.1")
    assert (cluster.nodes, cluster.rank) == (2, 1)
    assert cluster.address == f"10.0.0.1:{FIRST_PORT + 700}"


def test_two_steps_do_not_share_a_port_and_stay_below_rays_own() -> None:
    ports = [
        from_slurm({"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}, head="h").port
        for job in range(500, 510)
        for step in range(7)
    ]
    assert len(set(ports)) == len(ports)
    assert FIRST_PORT + NUM_PORTS < 10_002


def test_several_nodes_without_names_are_refused() -> None:
    with pytest.raises(ResourceError, match="name it with --head"):
        from_slurm({"SLURM_NNODES": "2"}, head=None)
