"""Training over two nodes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from daemons import MiniSlurm, exit_code, field
from runs import Octo, job_ids, rows

from megatron_octo import artifacts

STEPS = 6
#: Two halves of every matrix within a node, two halves of every batch across the nodes.
TRAIN = (
    "train",
    "tiny.stable",
    f"train_tokens={STEPS * 2048}",
    "parallelism.tensor_model_parallel_size=2",
    "--ranks",
    "4",
)


@pytest.fixture(scope="module")
def here(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run on this machine."""
    out = tmp_path_factory.mktemp("here") / "stable"
    command = [sys.executable, "-m", "megatron_octo.cli", *TRAIN, "--shards", shards, "--out", out]
    subprocess.run(command, check=True, timeout=300)
    return out


def test_two_nodes_train_what_one_machine_trains(
    slurm: MiniSlurm, octo: Octo, place: Callable[..., Path], submitter: str, shards: Path, here: Path, tmp_path: Path
) -> None:
    there, where = tmp_path / "stable", place(submitter=submitter)
    said = octo(*TRAIN, "--shards", shards, "--out", there, "--on", where, "--nodes", "2").stderr
    [job] = job_ids(said)
    slurm.wait_for([job])

    assert artifacts.is_done(there)
    assert [row["step"] for row in rows(there)] == list(range(1, STEPS + 1))
    assert rows(there) == rows(here)
    assert (field(job, "NumNodes"), field(job, "NumTasks")) == ("2", "4")


def test_nodes_that_lack_what_they_claim_are_not_trained_on(
    slurm: MiniSlurm, octo: Octo, place: Callable[..., Path], shards: Path, tmp_path: Path
) -> None:
    out, where = tmp_path / "stable", place(submitter="sbatch", gpus_per_node=1)
    [job] = job_ids(octo(*TRAIN, "--shards", shards, "--out", out, "--on", where, "--nodes", "2").stderr)
    slurm.wait_for([job])

    said = (tmp_path / "stable.logs" / "session-0" / "node_check.log").read_text()
    assert exit_code(job) == "69:0", said
    assert "node1: 0 of 1 GPUs" in said
    assert not out.exists()
