"""`cancel` and `resume`, with programs in Slurm's place that note what they are asked."""

import os
import re
from pathlib import Path

import pytest
import submitted

from megatron_octo.errors import ArtifactError, ConfigError, ResourceError
from megatron_octo.launch import control
from megatron_octo.launch.place import Kind, Place, Restart, Submitter
from megatron_octo.launch.slurm import ledger

CHAIN = Place(
    kind=Kind.SLURM, cpus_per_node=2, time_limit="60", accounting=False, restart=Restart.CHAIN, copies=2, submitter=Submitter.SBATCH
)  # fmt: skip
QUICK = Place(kind=Kind.SLURM, cpus_per_node=2, time_limit="60", accounting=False, save_seconds=1)


class FakeSlurm:
    """`squeue` prints `answer`; `sbatch` gives numbers from 101; `scancel` takes what it is given out of the answer."""

    def __init__(self, directory: Path) -> None:
        self.answer, self.calls = directory / "answer", directory / "calls"
        self.answer.touch()
        self.calls.touch()
        note = f'echo "${{0##*/}} $*" >>{self.calls}'
        number = f'echo $(($(grep -c "^sbatch" {self.calls}) + 100))'
        gone = f'[ "$1" = --state=PENDING ] && exit; for id in "$@"; do sed -i "/^$id|/d" {self.answer}; done'
        for name, script in {
            "squeue": f"""for word; do case $word in --jobs=*) ids=",${{word#--jobs=}},"; esac; done
                while read -r line; do case $ids in *,"${{line%%|*}}",*) echo "$line"; esac; done <{self.answer}""",
            "sbatch": f'{note}\ncase "$*" in *refused*) echo "Invalid qos" >&2; exit 1; esac\n{number}',
            "scancel": f"{note}\n{gone}",
        }.items():
            (directory / name).write_text(f"#!/bin/sh\n{script}\n")
            (directory / name).chmod(0o755)

    def asked(self, program: str) -> list[str]:
        """What a program was given, call by call, without the directories of the scripts."""
        lines = [line for line in self.calls.read_text().splitlines() if line.startswith(program)]
        return [re.sub(r"\S*/logs/(\S+)/job.sbatch", r"\1", line.removeprefix(f"{program} ")) for line in lines]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(control, "POLL_SECONDS", 0.05)
    return FakeSlurm(tmp_path / "bin")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """stable -> long and short -> report, submitted as the jobs 1 to 4."""
    folder = tmp_path / "study"
    submitted.submit(folder, {"stable": "1", "long": "2", "short": "3", "report": "4"}, place=QUICK)
    return folder


def cancelled(study: Path) -> set[str]:
    return {str(file.parent.relative_to(study / "logs")) for file in (study / "logs").rglob("cancelled")}


def test_cancelling_everything_stops_what_runs_gently_and_what_waits_before_that(study: Path, slurm: FakeSlurm) -> None:
    slurm.answer.write_text(
        "1|RUNNING|None|node1|N/A\n2|PENDING|Dependency||N/A\n3|PENDING|Dependency||N/A\n4|PENDING|Dependency||N/A\n"
    )

    assert control.cancel(study, None) == ["stable", "long", "short", "report"]
    assert slurm.asked("scancel") == ["4 3 2", "--state=PENDING 1", "--signal=TERM 1"]
    assert cancelled(study) == {"stable", "long", "short", "report"}


def test_what_does_not_leave_while_saving_takes_is_cancelled_hard(study: Path, slurm: FakeSlurm) -> None:
    stubborn = slurm.answer.parent / "scancel"
    stubborn.write_text(stubborn.read_text().replace("for id", "case $1 in --*) exit 0; esac\nfor id"))
    slurm.answer.write_text("1|RUNNING|None|node1|N/A\n")

    assert control.cancel(study, None) == ["stable"]
    assert slurm.asked("scancel") == ["--state=PENDING 1", "--signal=TERM 1", "1"]


def test_a_job_slurm_cannot_end_is_named(study: Path, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "KILL_SECONDS", 0)
    (slurm.answer.parent / "scancel").write_text("#!/bin/sh\n")
    slurm.answer.write_text("1|COMPLETING|None|node1|N/A\n")

    with pytest.raises(ResourceError, match=r"does not get rid of stable \(jobs 1\)"):
        control.cancel(study, None)


def test_cancelling_a_stage_takes_what_needs_it_and_leaves_the_others(study: Path, slurm: FakeSlurm) -> None:
    submitted.mark(study / "stable", done=True)
    slurm.answer.write_text("2|RUNNING|None|node1|N/A\n3|RUNNING|None|node2|N/A\n4|PENDING|Dependency||N/A\n")

    assert control.cancel(study, "long") == ["long", "report"]
    assert slurm.asked("scancel") == ["4", "--state=PENDING 2", "--signal=TERM 2"]
    assert cancelled(study) == {"long", "report"}


def test_every_task_of_an_array_is_told(study: Path, slurm: FakeSlurm) -> None:
    for task in ("task00000", "task00001"):
        (study / "logs" / "stable" / task).mkdir(parents=True)
    slurm.answer.write_text("1|RUNNING|None|node1|N/A\n1|PENDING|Resources||N/A\n")

    control.cancel(study, "stable")

    assert cancelled(study) == {"stable/task00000", "stable/task00001"}


def test_of_a_chain_the_copy_that_runs_saves_and_the_others_never_start(tmp_path: Path, slurm: FakeSlurm) -> None:
    submitted.submit(tmp_path / "study", {"stable": "1,2"}, place=CHAIN)
    slurm.answer.write_text("1|RUNNING|None|node1|N/A\n2|PENDING|Dependency||N/A\n")

    assert control.cancel(tmp_path / "study", None) == ["stable"]
    assert slurm.asked("scancel") == ["2", "--state=PENDING 1", "--signal=TERM 1"]


def test_cancelling_what_is_over_does_nothing(study: Path, slurm: FakeSlurm) -> None:
    assert control.cancel(study, None) == []
    assert (slurm.asked("scancel"), cancelled(study)) == ([], set())


def test_what_failed_and_what_it_blocks_is_submitted_again_after_what_still_runs(study: Path, slurm: FakeSlurm) -> None:
    submitted.mark(study / "stable", done=True)
    submitted.session(study / "logs" / "long", 0, "failed", "no progress")
    slurm.answer.write_text("2|FAILED|NonZeroExitCode|node1|N/A\n3|RUNNING|None|node2|N/A\n4|PENDING|Dependency||N/A\n")
    for name in ("progress", "verdict", "cancelled"):
        (study / "logs" / "long" / name).touch()

    assert control.resume(study, None) == {"long": "101", "report": "102"}
    assert slurm.asked("scancel") == ["2 4"]
    assert slurm.asked("sbatch") == ["--parsable long", "--parsable --dependency=afterok:101:3 report"]
    book = ledger.read(study)
    assert {name: job.id for name, job in book.jobs.items()} == {
        "stable": "1",
        "long": "101",
        "short": "3",
        "report": "102",
    }
    assert book.command == "megatron-octo study tiny"
    assert not [file.name for file in (study / "logs" / "long").iterdir() if file.name in control.FORGOTTEN]


def test_resuming_a_finished_study_submits_nothing(study: Path, slurm: FakeSlurm) -> None:
    for name in submitted.NEEDS:
        submitted.mark(study / name, done=True)

    assert control.resume(study, None) == {}
    assert slurm.asked("sbatch") == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("1|PENDING|Priority||N/A\n", "stable is waiting as job 1; there is nothing to resume before it ended"),
        ("1|RUNNING|None|node1|N/A\n", "stable is running as job 1"),
    ],
)
def test_what_is_still_queued_is_not_submitted_twice(study: Path, slurm: FakeSlurm, answer: str, message: str) -> None:
    slurm.answer.write_text(answer)

    with pytest.raises(ArtifactError, match=message):
        control.resume(study, "stable")
    assert slurm.asked("sbatch") == []


def test_resuming_a_stage_takes_what_it_needs_and_no_more(study: Path, slurm: FakeSlurm) -> None:
    assert control.resume(study, "long") == {"stable": "101", "long": "102"}
    assert slurm.asked("sbatch") == ["--parsable stable", "--parsable --dependency=afterok:101 long"]


def test_a_refusal_leaves_nothing_in_the_queue(study: Path, slurm: FakeSlurm) -> None:
    jobs = study / "launch" / "jobs.json"
    jobs.write_text(jobs.read_text().replace("logs/short/job.sbatch", "logs/refused/job.sbatch"))
    before = jobs.read_text()

    with pytest.raises(ResourceError, match=r"sbatch refuses .*refused/job.sbatch: Invalid qos"):
        control.resume(study, None)
    assert slurm.asked("scancel") == ["1 2 3 4", "101 102"]
    assert jobs.read_text() == before


def test_a_refusal_in_the_middle_of_a_chain_takes_its_first_copy_back(tmp_path: Path, slurm: FakeSlurm) -> None:
    submitted.submit(tmp_path / "study", {"stable": "1,2"}, place=CHAIN)
    sbatch = slurm.answer.parent / "sbatch"
    sbatch.write_text(sbatch.read_text().replace("refused", "afterany"))

    with pytest.raises(ResourceError, match="Invalid qos"):
        control.resume(tmp_path / "study", None)
    assert slurm.asked("scancel") == ["1 2", "101"]


def test_chains_and_arrays_that_run_twice_get_as_many_jobs_as_before(tmp_path: Path, slurm: FakeSlurm) -> None:
    submitted.submit(tmp_path / "study", {"stable": "1,2", "long": "3,4,5,6"}, place=CHAIN)

    assert control.resume(tmp_path / "study", None) == {"stable": "102", "long": "106"}
    assert slurm.asked("sbatch") == [
        "--parsable stable more",
        "--parsable --dependency=afterany:101 stable",
        "--parsable --dependency=afterok:102 long more",
        "--parsable --dependency=afterok:102,afterany:103 long",
        "--parsable --dependency=afterok:104 long more",
        "--parsable --dependency=afterok:104,afterany:105 long",
    ]
    assert ledger.read(tmp_path / "study").jobs["long"].ids == ("103", "104", "105", "106")


def test_an_unknown_stage_is_refused(study: Path, slurm: FakeSlurm) -> None:
    for verb in (control.cancel, control.resume):
        with pytest.raises(ConfigError, match="no stage 'shrot'; nearest: short"):
            verb(study, "shrot")
    assert slurm.asked("scancel") == []


def test_a_study_on_this_machine_is_not_slurm_s(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()

    with pytest.raises(
        ArtifactError, match=r"runs on this machine and no cluster.*the same command as before continues it"
    ):
        control.resume(tmp_path, None)
