"""Ray inside a job: its nodes are the job's, the driver's exit code is the job's, and when it has left nothing stays."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from daemons import MiniSlurm, exit_code, left_of
from runs import LAUNCH_BIN, PLACE

from megatron_octo import config, recipes
from megatron_octo.launch import cluster
from megatron_octo.launch.jobs import Job
from megatron_octo.launch.place import Place
from megatron_octo.launch.slurm import ledger
from megatron_octo.rl.config import RLJob
from megatron_octo.rl.placement import Placement

HERE = Path(__file__).parent
#: The mini cluster's nodes share /tmp, where Ray takes it that there is one machine only.
OWN_RAY_DIRECTORY = """#!/bin/sh
export OWN={root}/$(hostname)
exec unshare --mount sh -c 'mkdir -p /tmp/ray "$OWN" && mount --bind "$OWN" /tmp/ray && exec "$@"' - {python} "$@"
"""

pytestmark = pytest.mark.skipif(
    LAUNCH_BIN is None, reason="name an environment with Ray in OCTO_LAUNCH_ENV ('make test-slurm' does)"
)

Submit = Callable[..., str]


@pytest.fixture
def submit(slurm: MiniSlurm, tmp_path: Path) -> Submit:
    """Submit a job that starts Ray and the driver; its number."""
    python, environment = tmp_path / "python", tmp_path / "environment.sh"
    python.write_text(OWN_RAY_DIRECTORY.format(root=tmp_path / "ray", python=f"{LAUNCH_BIN}/python"))
    python.chmod(0o755)
    environment.write_text(f"PYTHONPATH={HERE}:{HERE.parents[1]}\n")
    # The nodes count GPUs that they do not have.
    own = {
        "gpus_per_node": 2,
        "check_nodes": False,
        "submitter": "sbatch",
        "environment_file": str(environment),
        "python": str(python),
    }

    def call(study: str, *, code: int, nodes: int, waits_for: Path, gpus: int, **changes: object) -> str:
        recipe = recipes.load("llama32_3b.rl_long")
        recipe = dataclasses.replace(recipe, placement=Placement(nodes=nodes, gpus_per_node=gpus))
        job = Job(
            name="rl",
            module="ray_driver",
            config=RLJob(
                recipe=recipe, model=tmp_path, prompts=waits_for, eval_sets=dict.fromkeys(recipe.eval_sets, tmp_path)
            ),
            out=tmp_path / study / f"driver-{code}",
            logs=tmp_path / study / "logs",
        )
        cluster.run([job], config.from_dict(Place, PLACE | own | changes), None, tmp_path / study, "test", False)
        return ledger.read(tmp_path / study).jobs["rl"].id

    return call


@pytest.mark.slow
@pytest.mark.parametrize("code", [0, 3])
def test_a_cluster_over_two_nodes(slurm: MiniSlurm, submit: Submit, tmp_path: Path, code: int) -> None:
    id_ = submit("study", code=code, nodes=2, gpus=2, waits_for=tmp_path)
    slurm.wait_for([id_])

    assert json.loads((tmp_path / "study" / f"driver-{code}" / "nodes").read_text()) == ["10.77.0.1", "10.77.0.2"]
    assert exit_code(id_) == f"{code}:0"
    assert left_of([id_]) == []


@pytest.mark.slow
def test_two_on_one_node_do_not_meet(slurm: MiniSlurm, submit: Submit, tmp_path: Path) -> None:
    go = {name: tmp_path / f"go-{name}" for name in ("one", "two")}
    ids = {
        name: submit(name, code=0, nodes=1, gpus=1, waits_for=file, sbatch={"nodelist": "node2"})
        for name, file in go.items()
    }
    slurm.wait(lambda: all((tmp_path / name / "driver-0" / "nodes").exists() for name in ids))
    assert {slurm.jobs()[id_][0] for id_ in ids.values()} == {"RUNNING"}

    go["one"].touch()
    slurm.wait_for([ids["one"]])
    assert left_of([ids["one"]]) == []
    go["two"].touch()  # which asks its Ray again
    slurm.wait_for([ids["two"]])

    assert [exit_code(id_) for id_ in ids.values()] == ["0:0", "0:0"]
    assert left_of([ids["two"]]) == []
