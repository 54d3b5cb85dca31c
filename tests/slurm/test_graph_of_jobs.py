"""The tiny study as a graph of jobs: a stage fails, what needs it never runs, all else does, and a second try reaches the report."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from daemons import MiniSlurm, field, left_of
from runs import LAUNCH_BIN, Octo, job_ids

from megatron_octo import artifacts, recipes
from megatron_octo.launch.study import graph

BROKEN = """#!/bin/sh
case "$4" in */decay_short) [ -e {mended} ] || exec {python} -c 'raise RuntimeError("no device")' ;; esac
exec {python} "$@"
"""


@pytest.mark.slow
def test_a_failed_stage_takes_its_dependents_along_and_only_them(
    slurm: MiniSlurm, octo: Octo, place: Callable[..., Path], tmp_path: Path
) -> None:
    study, mended, python = tmp_path / "smoke", tmp_path / "mended", tmp_path / "python"
    python.write_text(BROKEN.format(mended=mended, python=sys.executable))
    python.chmod(0o755)
    submitter = "nemo-run" if LAUNCH_BIN else "sbatch"
    where = place(submitter=submitter, pythons={"megatron_octo.training.run": str(python)})
    said = octo("study", "tiny.smoke", "--out", study, "--on", where).stderr
    first = job_ids(said)
    slurm.wait_for(first)

    short = {f"{stage}/decay_short" for stage in ("hf", "base_eval")}
    short |= {f"{stage}/decay_short/seed0" for stage in ("rl", "rl_eval")}
    found = status(octo, study, code=1)
    names = {job.name for job in graph.jobs(recipes.load("tiny.smoke"), study, command="")}
    assert {name for name in found if found[name]["state"] == "blocked"} == short | {"report"}
    assert {found[name]["blocked_by"] for name in found if found[name]["state"] == "blocked"} == {"decay_short"}
    assert {name for name in found if found[name]["state"] == "done"} == names - short - {"report", "decay_short"}
    assert found["decay_short"]["state"] == "failed"
    assert "1 sessions without progress" in found["decay_short"]["detail"]
    assert octo("logs", study, "decay_short", code=1).stdout.endswith("RuntimeError: no device\n")
    assert {field(found[name]["job"], "JobState") for name in short} == {"CANCELLED"}
    assert not (study / "hf" / "decay_short").exists()

    mended.touch()
    again = octo("resume", study).stdout
    assert {line.partition(":")[0] for line in again.splitlines()} == short | {"report", "decay_short"}
    slurm.wait_for(job_ids(again))

    assert {stage["state"] for stage in status(octo, study, code=0).values()} == {"done"}
    assert all(artifacts.is_done(study / name) for name in names)
    assert "decay_short" in (study / "report" / "report.html").read_text()
    assert left_of([*first, *job_ids(again)]) == []


def status(octo: Octo, study: Path, *, code: int) -> dict[str, dict[str, str]]:
    return {stage["stage"]: stage for stage in json.loads(octo("status", study, "--json", code=code).stdout)}
