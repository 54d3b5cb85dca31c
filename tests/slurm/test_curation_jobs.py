"""A curation as a graph of jobs on a cluster, its larger steps as arrays, makes what it makes on one machine."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from daemons import MiniSlurm, exit_code
from runs import LAUNCH_BIN, Octo, job_ids
from tiny_curation import STEPS, counts, made

WORDS = ("curate", "tiny.curation", "web.documents=600", "annotation.sample=300")
#: A data set card names the commits of the steps, and somebody may commit between two of them.
WITHOUT_GIT = {"GIT_DIR": os.devnull}


@pytest.mark.slow
def test_a_cluster_makes_what_one_machine_makes(
    slurm: MiniSlurm, octo: Octo, place: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"  # for both: configs and the data set card name it
    command = [sys.executable, "-m", "megatron_octo.cli", *WORDS, "--out", out, "--workers", "2"]
    subprocess.run(command, check=True, cwd=tmp_path, env=os.environ | WITHOUT_GIT, timeout=300)
    here = out.rename(tmp_path / "here")

    where = place(submitter="nemo-run" if LAUNCH_BIN else "sbatch", python=sys.executable)
    jobs = job_ids(octo(*WORDS, "reading.tasks=2", "--out", out, "--on", where, "--workers", "1", **WITHOUT_GIT).stderr)
    slurm.wait_for(jobs)

    assert len(jobs) == len(STEPS)
    assert {job: exit_code(job) for job in jobs} == dict.fromkeys(jobs, "0:0")
    assert made(out) == made(here)
    assert counts(out) == counts(here)
