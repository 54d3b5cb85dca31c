"""A place with containers, one behind SSH."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import login_node
from daemons import MiniSlurm
from runs import Octo, job_ids

from megatron_octo import artifacts, config

TRAIN = ("train", "tiny.stable", f"train_tokens={2 * 2048}")
#: There in the container only.
INTERPRETER = """#!/bin/sh
echo "in $CONTAINER_IMAGE"
touch "$(dirname "$0")/made"
exec {python} "$@"
"""


def test_in_containers(
    slurm: MiniSlurm,
    octo: Octo,
    place: Callable[..., Path],
    submitter: str,
    shards: Path,
    tmp_path: Path,
) -> None:
    outside, inside, out = tmp_path / "outside", tmp_path / "inside", tmp_path / "stable"
    outside.mkdir()
    (outside / "python").write_text(INTERPRETER.format(python=sys.executable))
    (outside / "python").chmod(0o755)
    container = {"image": "lab#octo:1", "mounts": [f"{outside}:{inside}:ro"]}
    where = place(submitter=submitter, python=f"{inside}/python", container=container)

    said = octo(*TRAIN, "--shards", shards, "--out", out, "--on", where).stderr
    slurm.wait_for(job_ids(said))

    log = (tmp_path / "stable.logs" / "session-0" / "rank0.log").read_text()
    assert artifacts.is_done(out), log
    assert log.startswith("in lab#octo:1\n")
    assert "Read-only file system" in log
    assert not (inside / "python").exists()


def test_over_ssh(
    slurm: MiniSlurm,
    octo: Octo,
    place: Callable[..., Path],
    submitter: str,
    shards: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "stable"
    with login_node.serve(tmp_path / "ssh", {"SLURM_CONF": os.environ["SLURM_CONF"]}) as (login, programs):
        # NeMo-Run takes a machine with Slurm's commands for the login node.
        where, laptop = place(submitter=submitter, ssh=config.to_dict(login)), {"PATH": str(programs)}

        said = octo(*TRAIN, "--shards", shards, "--out", out, "--on", where, **laptop).stderr
        slurm.wait_for(job_ids(said))
        [stage] = json.loads(octo("status", out, "--json", **laptop).stdout)

    assert (stage["state"], stage["step"]) == ("done", 2)
    assert artifacts.is_done(out)
