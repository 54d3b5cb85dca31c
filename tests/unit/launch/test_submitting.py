"""From jobs to submissions: order, dependencies, dry runs, the ledger. `sbatch` and `squeue` are stand-ins."""

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest
import rendered
from rendered import PLAIN

from megatron_octo import artifacts
from megatron_octo.errors import ArtifactError, ConfigError, ResourceError
from megatron_octo.launch import cluster
from megatron_octo.launch.jobs import Job
from megatron_octo.launch.jobscript import batch
from megatron_octo.launch.place import SSH, Place, Restart, Submitter
from megatron_octo.launch.slurm import ledger, submitting
from megatron_octo.launch.slurm.submitting import Submission

SBATCH_PLACE = dataclasses.replace(PLAIN, submitter=Submitter.SBATCH)
CHAIN = dataclasses.replace(SBATCH_PLACE, restart=Restart.CHAIN, copies=3)

SBATCH = """#!/bin/bash
echo "$@" >>"$SAID"
case "$*" in *"$REFUSED"*) echo "sbatch: error: Invalid account" >&2; exit 1 ;; esac
echo $((100 + $(wc -l <"$SAID")))
"""
SQUEUE = '#!/bin/bash\n[ -z "$QUEUED" ] || printf "%s|PENDING|Priority||N/A\\n" "$QUEUED"\n'
SCANCEL = '#!/bin/bash\necho "scancel $@" >>"$SAID"\n'


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What Slurm's commands were called with."""
    for name, text in {"sbatch": SBATCH, "squeue": SQUEUE, "scancel": SCANCEL}.items():
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("SAID", str(tmp_path / "said"))
    monkeypatch.setenv("REFUSED", "nothing")
    monkeypatch.setenv("QUEUED", "")
    return tmp_path / "said"


def graph(study: Path) -> list[Job]:
    """shards/web (an array that shuffles) -> stable -> decay -> rl/long/seed0, report"""
    shards = rendered.tokenize(study, tasks=4)
    stable = dataclasses.replace(rendered.stable("llama32_3b", study), needs=(shards.name,))
    decay = dataclasses.replace(
        stable, name="decay", out=study / "decay", logs=study / "logs/decay", needs=("stable", shards.name)
    )
    rl = dataclasses.replace(rendered.rl(study), needs=("decay",))
    report = dataclasses.replace(
        rendered.tokenize(study, tasks=1), name="report", out=study / "report", logs=study / "logs/report"
    )
    return [shards, stable, decay, rl, dataclasses.replace(report, needs=("stable", "rl/long/seed0"))]


def made(study: Path, place: Place) -> dict[str, Submission]:
    found = submitting.submissions(batch.prepare(graph(study), place, 8, study, study), place)
    return {one.name: one for one in found}


def test_every_job_waits_for_those_it_needs_and_arrays_run_twice(tmp_path: Path) -> None:
    waits = {name: (one.after_ok, one.after_any) for name, one in made(tmp_path, PLAIN).items()}
    assert waits == {
        "shards.web": ((), ()),
        "shards.web-2": (("shards.web",), ()),
        "stable": (("shards.web-2",), ()),
        "decay": (("stable", "shards.web-2"), ()),
        "rl.long.seed0": (("decay",), ()),
        "report": (("stable", "rl.long.seed0"), ()),
    }


def test_chains_wait_for_the_copy_before_and_their_last_copy_is_waited_for(tmp_path: Path) -> None:
    found = made(tmp_path, CHAIN)
    shown = {
        name: (one.after_ok, one.after_any, one.arguments)
        for name, one in found.items()
        if name.startswith(("stable", "decay"))
    }
    assert shown == {
        "stable": (("shards.web-6",), (), ("more",)),
        "stable-2": (("shards.web-6",), ("stable",), ("more",)),
        "stable-3": (("shards.web-6",), ("stable-2",), ()),
        "decay": (("stable-3", "shards.web-6"), (), ("more",)),
        "decay-2": (("stable-3", "shards.web-6"), ("decay",), ("more",)),
        "decay-3": (("stable-3", "shards.web-6"), ("decay-2",), ()),
    }
    assert submitting.dependency(found["stable-2"], {"shards.web-6": "6", "stable": "7"}) == [
        "--dependency=afterok:6,afterany:7"
    ]


def test_nodes_are_for_training(tmp_path: Path) -> None:
    nodes = {one.name: one.request.nodes for one in batch.prepare(graph(tmp_path), PLAIN, 8, tmp_path, tmp_path)}
    assert nodes == {"shards.web": 1, "stable": 8, "decay": 8, "rl.long.seed0": 2, "report": 1}
    with pytest.raises(ConfigError, match="report runs on one node, not 8"):
        batch.prepare(graph(tmp_path)[-1:], PLAIN, 8, tmp_path, tmp_path)


def test_a_dry_run_prints_what_can_be_pasted_and_submits_nothing(
    tmp_path: Path, said: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study"
    cluster.run(graph(study), PLAIN, 8, study, "megatron-octo study x", dry=True)
    printed = capsys.readouterr().out
    assert not said.exists()
    assert not ledger.exists(study)
    assert (
        f"\n# rl.long.seed0\njob5=$(sbatch --parsable --dependency=afterok:$job4 {study}/logs/rl/long/seed0/job.sbatch)\n"
        in printed
    )
    assert not (study / "launch" / "nemo").exists()
    assert (study / "launch" / "submit.sh").read_text().strip() == printed.strip()
    pasted = subprocess.run(["bash"], input=printed, capture_output=True, text=True)
    assert (pasted.returncode, pasted.stdout) == (0, "101 102 103 104 105 106\n"), pasted.stderr
    assert said.read_text().splitlines() == [
        f"--parsable {study}/logs/shards/web/job.sbatch",
        f"--parsable --dependency=afterok:101 {study}/logs/shards/web/job.sbatch",
        f"--parsable --dependency=afterok:102 {study}/llama32_3b/logs/stable/job.sbatch",
        f"--parsable --dependency=afterok:103:102 {study}/logs/decay/job.sbatch",
        f"--parsable --dependency=afterok:104 {study}/logs/rl/long/seed0/job.sbatch",
        f"--parsable --dependency=afterok:103:105 {study}/logs/report/job.sbatch",
    ]


def test_a_dry_run_of_one_job_prints_its_batch_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = rendered.stable("llama32_3b", tmp_path)
    cluster.run([job], PLAIN, 8, tmp_path, "megatron-octo train", dry=True)
    printed = capsys.readouterr().out
    assert printed.startswith((job.logs / "job.sbatch").read_text())
    assert f"job1=$(sbatch --parsable {job.logs}/job.sbatch)" in printed


def test_submitting_with_sbatch_leaves_a_ledger(tmp_path: Path, said: Path) -> None:
    study = tmp_path / "study"
    cluster.run(graph(study), SBATCH_PLACE, 8, study, "megatron-octo study x", dry=False)
    assert len(said.read_text().splitlines()) == 6
    found = ledger.read(study)
    assert found.place == SBATCH_PLACE
    assert found.command == "megatron-octo study x"
    assert {name: job.ids for name, job in found.jobs.items()} == {
        "shards/web": ("101", "102"), "stable": ("103",), "decay": ("104",), "rl/long/seed0": ("105",), "report": ("106",),
    }  # fmt: skip
    assert (found.jobs["shards/web"].id, found.jobs["decay"].needs) == ("102", ("stable", "shards/web"))
    assert found.jobs["decay"].script == study / "logs/decay/job.sbatch"
    line = json.loads((tmp_path / "runs.jsonl").read_text())
    assert (line["study"], line["jobs"]["report"]) == (str(study), "106")


def test_nothing_is_left_in_the_queue_when_slurm_refuses_a_job(
    tmp_path: Path, said: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "study"
    monkeypatch.setenv("REFUSED", "logs/decay/")
    with pytest.raises(
        ResourceError, match="sbatch refuses decay: sbatch: error: Invalid account; nothing of this study is left"
    ):
        cluster.run(graph(study), SBATCH_PLACE, 8, study, "c", dry=False)
    assert said.read_text().splitlines()[-1] == "scancel 101 102 103"
    assert not ledger.exists(study)


def test_over_ssh_files_go_first_and_sbatch_runs_there(tmp_path: Path, said: Path) -> None:
    """`ssh` is a stand-in whose other side sees these files too, but for the probe of `ssh.sees`."""
    (tmp_path / "bin" / "ssh").write_text(
        '#!/bin/bash\necho "ssh ${*: -1}" >>"$SAID"\ncase "${*: -1}" in test*) exit 1 ;; esac\nsh -c "${*: -1}"\n'
    )
    (tmp_path / "bin" / "ssh").chmod(0o755)
    study = tmp_path / "study"
    place = dataclasses.replace(SBATCH_PLACE, ssh=SSH(host="login", user="ada"))
    cluster.run(graph(study)[1:3], place, 8, study, "c", dry=False)
    lines = [line for line in said.read_text().splitlines() if not line.startswith("ssh test")]
    assert lines == [
        "ssh tar -xzf - -C /",
        f"ssh sbatch --parsable {study}/llama32_3b/logs/stable/job.sbatch",
        f"--parsable {study}/llama32_3b/logs/stable/job.sbatch",
        f"ssh sbatch --parsable --dependency=afterok:104 {study}/logs/decay/job.sbatch",
        f"--parsable --dependency=afterok:104 {study}/logs/decay/job.sbatch",
    ]
    assert ledger.read(study).place == place


def test_behind_ssh_paths_are_absolute(tmp_path: Path) -> None:
    place = dataclasses.replace(PLAIN, ssh=SSH(host="login", user="ada"))
    job = rendered.tokenize(tmp_path)
    relative = dataclasses.replace(
        job, config=dataclasses.replace(job.config, inputs=(Path("/data"), Path("data/web")))
    )
    with pytest.raises(
        ConfigError, match="shards/web reads 'data/web' on a cluster behind ssh; write its absolute path"
    ):
        cluster.run([relative], place, None, tmp_path, "c", dry=True)


def test_jobs_that_wait_or_run_are_not_submitted_again(
    tmp_path: Path, said: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "study"
    cluster.run(graph(study), SBATCH_PLACE, 8, study, "c", dry=False)
    monkeypatch.setenv("QUEUED", "104")
    with pytest.raises(
        ResourceError, match=r"1 stages of .* are queued or run, such as decay \(job 104\); wait for them, or"
    ):
        cluster.run(graph(study), SBATCH_PLACE, 8, study, "c", dry=False)
    assert len(said.read_text().splitlines()) == 6


def test_only_what_is_not_done_is_submitted_and_waits_for_nothing_that_is(tmp_path: Path, said: Path) -> None:
    study = tmp_path / "study"
    jobs = [dataclasses.replace(job, always_starts=False) for job in graph(study)[1:3]]
    with artifacts.stage(jobs[0].out, kind="train", config=jobs[0].config):
        pass
    cluster.run(jobs, SBATCH_PLACE, 8, study, "first", dry=False)
    assert said.read_text() == f"--parsable {study}/logs/decay/job.sbatch\n"
    other = dataclasses.replace(jobs[0], config=dataclasses.replace(jobs[0].config, shards=Path("elsewhere")))
    with pytest.raises(ArtifactError, match="finished with another config"):
        cluster.run([other], SBATCH_PLACE, 8, study, "second", dry=True)


def test_a_second_submission_keeps_what_the_first_one_noted(tmp_path: Path, said: Path) -> None:
    study = tmp_path / "study"
    cluster.run(graph(study), SBATCH_PLACE, 8, study, "first", dry=False)
    cluster.run(graph(study)[1:2], SBATCH_PLACE, 8, study, "second", dry=False)
    found = ledger.read(study)
    assert (found.command, list(found.jobs)) == ("second", ["shards/web", "stable", "decay", "rl/long/seed0", "report"])
    assert (found.jobs["stable"].id, found.jobs["decay"].id) == ("107", "104")
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 2


def test_nemo_run_is_missed_with_a_way_out(tmp_path: Path, said: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nemo_run", None)
    says = r"pip install 'megatron-octo\[launch\]' in an environment of its own \(docs/cluster.md\), or set submitter: sbatch"
    with pytest.raises(ResourceError, match=says):
        cluster.run(graph(tmp_path), PLAIN, 8, tmp_path, "c", dry=False)


def test_a_ledger_that_is_not_ours(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="was not submitted to a cluster"):
        ledger.read(tmp_path)
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "jobs.json").write_text('{"jobs": 1}')
    with pytest.raises(ArtifactError, match=r"jobs.json cannot be read: "):
        ledger.read(tmp_path)
