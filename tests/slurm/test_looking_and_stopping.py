"""`status`, `logs`, `cancel` and `resume` on real Slurm daemons without accounting: two nodes with their own network and processes."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import login_node
import pytest
from counting import Study
from daemons import MiniSlurm, left_of

from megatron_octo import artifacts
from megatron_octo.errors import ResourceError
from megatron_octo.launch import control
from megatron_octo.launch.slurm import ledger, queue
from megatron_octo.launch.status import logs, states
from megatron_octo.launch.status.states import State

#: Submits over SSH, looks on, cancels; and prints what a user would have seen.
CLIENT = """
import json, sys
from pathlib import Path
from megatron_octo.launch import control
from megatron_octo.launch.status import logs, standing
from megatron_octo.launch.place import SSH
from counting import Study

study = Study(Path(sys.argv[1]), SSH(host="127.0.0.1", user="root", port=int(sys.argv[2]), identity=Path(sys.argv[3])))
study.submit(study.job("first"), study.job("slow", "first", steps=100_000))
study.wait(lambda now: now["slow"].session == 0)
said = []
study.wait(lambda now: logs.show(study.directory, "slow", follow=False, session=None, rank=0, write=said.append) == 0 and "step 2" in said[-1])
cancelled = control.cancel(study.directory, None)
print(json.dumps({"log": said[-1], "cancelled": cancelled, "stages": [stage.to_json() for stage in standing.status(study.directory)]}))
"""


@pytest.fixture
def study(tmp_path: Path, slurm: MiniSlurm) -> Study:
    return Study(tmp_path)


def left(directory: Path, *stages: str) -> list[str]:
    """What still runs of a study's stages, of all when none is named."""
    jobs = ledger.read(directory).jobs
    return left_of([id_ for name in stages or jobs for id_ in jobs[name].ids])


def test_a_failed_stage_the_ones_it_blocks_the_others_and_a_second_try(study: Study) -> None:
    study.submit(
        study.job("first"),
        study.job("bad", "first", steps=3, fails_at=2),
        study.job("after_bad", "bad"),
        study.job("after_that", "after_bad"),
        study.job("other", "first", steps=100_000),
    )
    found = study.wait(lambda now: now["after_bad"].state is State.BLOCKED and now["other"].session == 0)

    assert {name: stage.state.value for name, stage in found.items()} == {
        "first": "done", "bad": "failed", "after_bad": "blocked", "after_that": "blocked", "other": "running",
    }  # fmt: skip
    assert [found["after_bad"].blocked_by, found["after_that"].blocked_by] == ["bad", "bad"]
    assert found["other"].nodes in ("node1", "node2")
    assert found["bad"].detail is not None
    assert "1 sessions without progress" in found["bad"].detail
    assert states.exit_code(list(found.values())) == 1
    said: list[str] = []
    assert logs.show(study.directory, "bad", follow=False, session=None, rank=0, write=said.append) == 1
    assert said[-1].endswith("RuntimeError: no step 2\n")
    assert "rank 0 failed first" in said[-1]

    with pytest.raises(ResourceError, match="are queued or run"):
        study.submit(study.job("first"), study.job("other", "first", steps=100_000))
    study.mended.touch()
    again = control.resume(study.directory, None)

    assert list(again) == ["bad", "after_bad", "after_that"]
    found = study.wait(lambda now: now["after_that"].state is State.DONE)
    assert found["other"].state is State.RUNNING
    assert found["bad"].session == 1
    assert states.exit_code(list(found.values())) == 3


def test_cancel_lets_a_stage_save_and_leaves_nothing_behind_and_resume_goes_on(study: Study) -> None:
    study.submit(
        study.job("slow", steps=50, save_seconds=4), study.job("next", "slow"), study.job("aside", steps=100_000)
    )
    study.wait(
        lambda now: (
            study.file("slow").exists() and "step 3" in study.file("slow").read_text() and now["aside"].session == 0
        )
    )

    assert control.cancel(study.directory, "slow") == ["slow", "next"]

    found = study.wait(lambda now: now["next"].state is not State.WAITING)
    assert [found[name].state for name in ("slow", "next", "aside")] == [State.CANCELLED, State.BLOCKED, State.RUNNING]
    stopped_at = int((study.directory / "slow" / "saved").read_text())
    assert stopped_at >= 3
    assert not artifacts.is_done(study.directory / "slow")
    assert left(study.directory, "slow") == []
    time.sleep(2)  # a requeue would be seen by now
    assert queue.states([str(found["slow"].job)], login=None, accounting=False)[str(found["slow"].job)].alive is False

    assert list(control.resume(study.directory, "next")) == ["slow", "next"]
    found = study.wait(lambda now: now["next"].state is State.DONE)
    assert f"begins at {stopped_at}\n" in study.file("slow", 1).read_text()
    assert control.cancel(study.directory, None) == ["aside"]
    assert left(study.directory) == []


def test_a_plain_scancel_is_obeyed(slurm: MiniSlurm, study: Study) -> None:
    study.submit(study.job("slow", steps=100_000), study.job("next", "slow"))
    found = study.wait(lambda now: study.file("slow").exists() and "step 3" in study.file("slow").read_text())
    subprocess.run(["scancel", str(found["slow"].job)], check=True)

    found = study.wait(lambda now: now["next"].state is State.BLOCKED)
    slurm.wait_for([str(found["slow"].job)])
    assert found["slow"].state is State.CANCELLED
    assert (study.directory / "slow" / "saved").exists()
    assert left(study.directory) == []


def test_logs_are_followed_through_the_queue_and_a_requeue(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "POLL_SECONDS", 0.1)
    said: list[str] = []
    codes: list[int] = []
    study.submit(study.job("first", steps=20), study.job("counted", "first", steps=40))

    def follow() -> None:
        codes.append(
            logs.show(study.directory, "counted", follow=True, session=None, rank=0, write=said.append, ask_seconds=0.5)
        )

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    found = study.wait(lambda now: "step 5\n" in "".join(said))
    job = str(found["counted"].job)
    subprocess.run(
        ["scancel", "--signal=TERM", job], check=True
    )  # as before the time limit: it saves and requeues itself
    study.wait(lambda now: (now["counted"].detail or "").startswith("BeginTime"))
    time.sleep(3)  # started on the same node at once it may still meet what ends its first session
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=True)
    reader.join(timeout=90)

    assert codes == [0], said[-3:]
    text = "".join(said)
    assert text.startswith("counted waits: after first\n-- counted: session 0 --\nbegins at 0\nstep 1\n")
    stopped_at = (study.directory / "counted" / "saved").read_text()
    assert f"step {stopped_at}\nsaved at {stopped_at}\n" in text
    assert f"-- counted: session 1 --\nbegins at {stopped_at}\n" in text
    assert text.endswith("step 40\n")


def test_a_job_that_has_just_ended_needs_no_stopping(study: Study) -> None:
    study.submit(study.job("short"))
    study.wait(lambda now: now["short"].state is State.DONE)
    [id_] = ledger.read(study.directory).jobs["short"].ids
    queue.ask_to_stop([id_], login=None)
    queue.cancel([id_], login=None)


@pytest.mark.parametrize("shared", [True, False], ids=["one file system", "two file systems"])
def test_a_login_node_over_ssh(tmp_path: Path, slurm: MiniSlurm, shared: bool) -> None:
    laptop, study = tmp_path / "laptop", tmp_path / "study"
    laptop.mkdir()
    study.mkdir()
    # The client has a directory of its own where the cluster has the study.
    alone = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" "$1" && shift && exec "$@"', str(laptop), str(study)]
    with login_node.serve(tmp_path / "ssh", {"SLURM_CONF": os.environ["SLURM_CONF"]}) as (login, programs):
        # No Slurm on the client's side: neither its commands nor its configuration are there.
        settings = {"PATH": str(programs), "SLURM_CONF": "/nonexistent", "PYTHONPATH": str(Path(__file__).parent)}
        client = subprocess.run(
            [*([] if shared else alone), sys.executable, "-c", CLIENT, str(tmp_path), str(login.port), str(login.identity)],
            env=os.environ | settings, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    assert client.returncode == 0, client.stderr
    seen = json.loads(client.stdout)
    assert seen["log"].startswith("begins at 0\nstep 1\nstep 2\n")
    assert seen["cancelled"] == ["slow"]
    assert [stage["state"] for stage in seen["stages"]] == ["done", "cancelled"]
    assert (study / "slow" / "saved").exists()
    assert (laptop / "first" / "stage.json").exists() is not shared
    assert left_of(list(slurm.jobs())) == []
