"""`status`, `logs`, `cancel` and `resume` on real Slurm daemons without accounting: two nodes with their own network and processes."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import login_node
import pytest

from megatron_octo import artifacts
from megatron_octo.errors import ResourceError
from megatron_octo.launch import cluster, control, ledger, logs, slurm, stage_status, status
from megatron_octo.launch.jobs import Job
from megatron_octo.launch.place import SSH, Kind, Place, Submitter
from megatron_octo.launch.stage_status import StageStatus, State

CLUSTER = Path(__file__).with_name("mini_slurm.sh")
#: Counts to `steps`, as fast as it may, and goes on from where SIGTERM stopped it; fails at `fails_at` unless OUT/mended is there.
STAGE = """
import json, pathlib, signal, sys, time
from megatron_octo import artifacts

config, out = json.loads(open(sys.argv[1]).read()), pathlib.Path(sys.argv[2])
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
with artifacts.stage(out, kind="test", config=config, resumable=True) as stage:
    if stage.done:
        sys.exit()
    saved = out / "saved"
    step = int(saved.read_text()) if saved.exists() else 0
    print("begins at", step, flush=True)
    while step < config["steps"]:
        if stop:
            time.sleep(config["save_seconds"])
            saved.write_text(str(step))
            print("saved at", step, flush=True)
            stage.complete = False
            break
        if step == config["fails_at"] and not pathlib.Path(config["mended"]).exists():
            raise RuntimeError(f"no step {step}")
        time.sleep(0.1)
        step += 1
        print("step", step, flush=True)
"""
#: Submits over SSH, looks on, cancels; and prints what a user would have seen.
CLIENT = """
import json, sys
from pathlib import Path
from megatron_octo.launch import control, logs, stage_status, status
from megatron_octo.launch.place import SSH
from test_slurm_asking import Study

study = Study(Path(sys.argv[1]), SSH(host="127.0.0.1", user="root", port=int(sys.argv[2]), identity=Path(sys.argv[3])))
study.submit(study.job("first"), study.job("slow", "first", steps=100_000))
study.wait(lambda now: now["slow"].session == 0)
said = []
study.wait(lambda now: logs.show(study.directory, "slow", follow=False, session=None, rank=0, write=said.append) == 0 and "step 2" in said[-1])
cancelled = control.cancel(study.directory, None)
print(json.dumps({"log": said[-1], "cancelled": cancelled, "stages": [stage.to_json() for stage in status.status(study.directory)]}))
"""


@pytest.fixture(scope="module")
def mini_slurm() -> Iterator[None]:
    """Slurm's clients in this process find a cluster, which is taken down afterwards."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("the throw-away Slurm cluster needs root on Debian")
    settings = os.environ | {"MINI_SLURM_ACCOUNTING": "0", "MINI_SLURM_SHARE_TMP": "1", "MINI_SLURM_CPUS": "2"}
    subprocess.run(["bash", CLUSTER, "down"], env=settings, check=True, capture_output=True)
    started = subprocess.run(["bash", CLUSTER, "up"], env=settings, capture_output=True, text=True, timeout=300)
    if shutil.which("slurmctld") is None:
        pytest.skip(f"Slurm could not be installed: {started.stderr[-300:]}")
    assert started.returncode == 0, started.stderr
    exported = subprocess.run(["bash", CLUSTER, "env"], env=settings, check=True, capture_output=True, text=True).stdout
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", exported.strip().partition("=")[2])
            yield
    finally:
        subprocess.run(["bash", CLUSTER, "down"], env=settings, check=True, capture_output=True)


class Study:
    """Stages that count, submitted to the cluster."""

    def __init__(self, directory: Path, login: SSH | None = None) -> None:
        self.directory, self.modules = directory / "study", directory / "modules"
        self.modules.mkdir(exist_ok=True)
        (self.modules / "counting_stage.py").write_text(STAGE)
        environment = directory / "environment.sh"
        environment.write_text(f"PYTHONPATH={self.modules}\n")
        environment.chmod(0o600)
        self.place = Place(
            kind=Kind.SLURM, gpus_per_node=0, cpus_per_node=1, time_limit="10", python=sys.executable, environment_file=environment,
            retries=0, save_seconds=20, accounting=False, submitter=Submitter.SBATCH, ssh=login,
        )  # fmt: skip

    def job(
        self, name: str, *needs: str, steps: int = 1, fails_at: int | None = None, save_seconds: float = 0.0
    ) -> Job:
        settings = {"steps": steps, "fails_at": fails_at, "mended": str(self.mended), "save_seconds": save_seconds}
        out, folder = self.directory / name, self.directory / "logs" / name
        return Job(name=name, module="counting_stage", config=settings, out=out, logs=folder, needs=needs)

    @property
    def mended(self) -> Path:
        return self.directory.with_name("mended")

    def submit(self, *jobs: Job) -> None:
        cluster.run(jobs, self.place, None, self.directory, "megatron-octo study counting", False)

    def wait(self, until: Callable[[dict[str, StageStatus]], bool]) -> dict[str, StageStatus]:
        deadline = time.monotonic() + 90
        while True:
            found = {stage.stage: stage for stage in status.status(self.directory)}
            if until(found):
                return found
            assert time.monotonic() < deadline, stage_status.as_table(list(found.values()))
            time.sleep(0.3)

    def file(self, stage: str, session: int = 0) -> Path:
        return self.directory / "logs" / stage / f"session-{session}" / "rank0.log"


@pytest.fixture
def study(tmp_path: Path, mini_slurm: None) -> Iterator[Study]:
    made = Study(tmp_path)
    yield made
    if ledger.exists(made.directory):
        ids = [id_ for job in ledger.read(made.directory).jobs.values() for id_ in job.ids]
        slurm.cancel(ids, login=None)


def processes(word: str) -> list[str]:
    """Command lines of this machine, its nodes among it, that have a word in them."""
    return [
        line
        for entry in Path("/proc").glob("[0-9]*")
        for line in [_command_line(entry)]
        if word in line and entry.name != str(os.getpid())
    ]


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
    except OSError:  # gone meanwhile
        return ""


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
    assert stage_status.exit_code(list(found.values())) == 1
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
    assert stage_status.exit_code(list(found.values())) == 3


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
    assert processes(f"{study.directory}/slow") == []
    time.sleep(2)  # a requeue would be seen by now
    assert slurm.states([str(found["slow"].job)], login=None, accounting=False)[str(found["slow"].job)].alive is False

    assert list(control.resume(study.directory, "next")) == ["slow", "next"]
    found = study.wait(lambda now: now["next"].state is State.DONE)
    assert f"begins at {stopped_at}\n" in study.file("slow", 1).read_text()
    assert control.cancel(study.directory, None) == ["aside"]
    assert processes(str(study.directory)) == []


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


@pytest.mark.parametrize("shared", [True, False], ids=["one file system", "two file systems"])
def test_a_login_node_over_ssh(tmp_path: Path, mini_slurm: None, shared: bool) -> None:
    if not login_node.install():
        pytest.skip("openssh-server could not be installed")
    keys, laptop, study = tmp_path / "keys", tmp_path / "laptop", tmp_path / "study"
    for directory in (keys, laptop, study):
        directory.mkdir()
    # The client has a directory of its own where the cluster has the study.
    alone = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" "$1" && shift && exec "$@"', str(laptop), str(study)]
    with login_node.serve(keys, {"SLURM_CONF": os.environ["SLURM_CONF"]}) as (login, bin_):
        # No Slurm on the client's side: its configuration is not there.
        settings = os.environ | {"PATH": f"{bin_}:{os.environ['PATH']}", "SLURM_CONF": "/nonexistent"}
        client = subprocess.run(
            [*([] if shared else alone), sys.executable, "-c", CLIENT, str(tmp_path), str(login.port), str(login.identity)],
            env=settings | {"PYTHONPATH": str(Path(__file__).parent)}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    assert client.returncode == 0, client.stderr
    seen = json.loads(client.stdout)
    assert seen["log"].startswith("begins at 0\nstep 1\nstep 2\n")
    assert seen["cancelled"] == ["slow"]
    assert [stage["state"] for stage in seen["stages"]] == ["done", "cancelled"]
    assert (study / "slow" / "saved").exists()
    assert (laptop / "first" / "stage.json").exists() is not shared
    assert processes(str(study)) == []
