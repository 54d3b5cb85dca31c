"""The launcher on small modules of our own: order, cores, failures, signals, and nothing left running."""

import dataclasses
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from megatron_octo import artifacts
from megatron_octo.errors import ArtifactError, ResourceError
from megatron_octo.launch import local
from megatron_octo.launch.jobs import Job, StageFailedError

#: A stage of as many ranks as it gets. Its config says what each rank does, one line of Python per rank.
STAGE = """
import json, os, pathlib, signal, subprocess, sys, time
from megatron_octo import artifacts, process
from megatron_octo.errors import ConfigError

config, out = json.loads(open(sys.argv[1]).read()), pathlib.Path(sys.argv[2])
rank = int(os.environ.get("RANK", "0"))
started = time.monotonic()
pids = out.with_name(out.name + ".pids")
pids.mkdir(parents=True, exist_ok=True)
(pids / str(os.getpid())).touch()
doing = config["ranks"][rank]
if rank == 0:
    with artifacts.stage(out, kind="test", config=config, force="--force" in sys.argv) as stage:
        exec(doing)
        stage.counts |= {"started": started, "ended": time.monotonic(), "port": os.environ.get("MASTER_PORT")}
else:
    exec(doing)
"""
#: `run` in a process of its own, to be killed.
LAUNCHER = """
import sys
from pathlib import Path
from megatron_octo.launch import local
from megatron_octo.launch.jobs import Job

root = Path(sys.argv[1])
forever = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(130)); time.sleep(600)"
job = Job(name="a", module="stage_under_test", config={"ranks": [forever, forever]}, out=root / "a", logs=root / "logs",
          ranks=2)
try:
    with local.exclusive(root):
        local.run([job], cores=2)
except KeyboardInterrupt:
    sys.exit(130)
"""

#: `run` with one job that shows a bar, on a machine with more cores than that.
SINGLE = """
import sys
from pathlib import Path
from megatron_octo.launch import local
from megatron_octo.launch.jobs import Job

root = Path(sys.argv[1])
bar = "from megatron_octo import progress\\nwith progress.bar('copy', total=2, unit='B') as advance: advance(2)"
local.run([Job(name="a", module="stage_under_test", config={"ranks": [bar]}, out=root / "a", logs=root / "logs")], cores=8)
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "stage_under_test.py").write_text(STAGE)
    (tmp_path / "launcher_under_test.py").write_text(LAUNCHER)
    (tmp_path / "single_under_test.py").write_text(SINGLE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    return tmp_path


def job(root: Path, name: str, *doing: str, needs: tuple[str, ...] = ()) -> Job:
    return Job(
        name=name, module="stage_under_test", config={"ranks": doing or ("pass",)}, out=root / name,
        logs=root / "logs" / name, ranks=max(1, len(doing)), needs=needs,
    )  # fmt: skip


def counts(root: Path, name: str) -> dict[str, Any]:
    return artifacts.finished(root / name)["counts"]


def pids(root: Path) -> list[int]:
    return [int(file.name) for file in root.glob("*.pids/*")]


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Any, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


def test_a_job_starts_after_those_it_needs(root: Path) -> None:
    local.run([job(root, "c", needs=("a", "b")), job(root, "b", needs=("a",)), job(root, "a")], cores=4)
    assert counts(root, "a")["ended"] <= counts(root, "b")["started"]
    assert counts(root, "b")["ended"] <= counts(root, "c")["started"]


@pytest.mark.parametrize(("cores", "together"), [(1, False), (2, True)])
def test_jobs_run_side_by_side_while_their_ranks_fit(root: Path, cores: int, together: bool) -> None:
    # Each waits for the other, but not for ever.
    meet = "\n".join(
        (
            "deadline = time.monotonic() + 2",
            "while len(list(out.parent.glob('*.pids'))) < 2 and time.monotonic() < deadline: time.sleep(0.01)",
            "stage.counts['met'] = time.monotonic() < deadline",
        )
    )
    local.run([job(root, "a", meet), job(root, "b", meet)], cores=cores)
    assert counts(root, "a")["met"] is together


def test_a_job_of_more_ranks_than_cores_runs_alone(root: Path) -> None:
    local.run([job(root, "a", "time.sleep(0.3)"), job(root, "b", "time.sleep(0.3)", "pass", "pass")], cores=2)
    assert counts(root, "a")["ended"] <= counts(root, "b")["started"]


def test_ranks_are_told_who_they_are(root: Path) -> None:
    tell = (
        "(out.parent / f'rank{rank}').write_text("
        "' '.join(os.environ[k] for k in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'OMP_NUM_THREADS')))"
    )
    local.run([job(root, "a", tell, tell)], cores=4)
    assert [(root / f"rank{rank}").read_text() for rank in (0, 1)] == ["0 0 2 127.0.0.1 1", "1 1 2 127.0.0.1 1"]


def test_lines_of_a_smaller_job_carry_its_name(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    local.run([job(root, "shards/web", "print('half way')"), job(root, "other")], cores=2)
    assert "[shards/web] half way\n" in capfd.readouterr().err
    assert (root / "logs" / "shards" / "web" / "rank0.log").read_text() == "half way\n"


def test_the_only_job_owns_the_terminal(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    local.run([job(root, "a", "print('half way', file=sys.stderr)")], cores=8)
    assert capfd.readouterr().err.startswith("half way\na: done in ")
    assert not (root / "logs" / "a" / "rank0.log").exists()


def test_the_only_job_shows_bars_on_a_terminal(root: Path) -> None:
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    started = [sys.executable, str(root / "single_under_test.py"), str(root)]
    subprocess.run(started, stderr=theirs, env=environment, check=True, timeout=60)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    os.close(theirs)
    assert "━" in shown


def test_a_rerun_keeps_what_the_last_one_said(root: Path) -> None:
    dies = "print('the first try', flush=True); time.sleep(0.2); sys.exit(7)"
    with pytest.raises(StageFailedError):
        local.run([job(root, "a", dies, "print('of rank 1', flush=True); time.sleep(600)"), job(root, "b")], cores=4)
    local.run([job(root, "a", "print('the second')", "print('again')"), job(root, "b")], cores=4)
    logs = root / "logs" / "a"
    assert (logs / "rank0.log").read_text() == "the first try\nthe second\n"
    assert (logs / "rank1.log").read_text() == "of rank 1\nagain\n"


def test_a_finished_job_is_not_started_again(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    jobs = [job(root, "a"), job(root, "b", needs=("a",))]
    local.run(jobs, cores=2)
    before = (root / "b" / "stage.json").read_bytes()
    capfd.readouterr()
    local.run(jobs, cores=2)
    assert capfd.readouterr().err == "a: done before\nb: done before\n"
    assert (root / "b" / "stage.json").read_bytes() == before
    local.run(jobs, cores=2, force=True)
    assert (root / "b" / "stage.json").read_bytes() == before


def test_force_redoes_what_changed_and_keeps_the_rest(root: Path) -> None:
    local.run([job(root, "a"), job(root, "b")], cores=2)
    kept = (root / "a" / "stage.json").read_bytes()
    changed = [job(root, "a"), job(root, "b", "1")]
    local.run(changed, cores=2, force=True)
    assert (root / "a" / "stage.json").read_bytes() == kept
    assert artifacts.is_finished(root / "b", config=changed[1].config)


def test_a_finished_job_with_another_config_starts_nothing(root: Path) -> None:
    local.run([job(root, "a")], cores=2)
    with pytest.raises(ArtifactError, match=r"ranks\[0\]: 'pass' -> '1'"):
        local.run([job(root, "b"), job(root, "a", "1")], cores=2)
    assert not any(alive(pid) for pid in pids(root))


def test_a_failing_job_is_named_and_the_others_are_stopped(root: Path) -> None:
    fails = "while len(list(out.parent.glob('*.pids/*'))) < 2: time.sleep(0.01)\nsys.exit(7)"
    with pytest.raises(StageFailedError, match="rank 0 of stage b left with exit code 7"):
        local.run([job(root, "a", "time.sleep(600)"), job(root, "b", fails), job(root, "c", needs=("b",))], cores=2)
    assert len(pids(root)) == 2
    assert not any(alive(pid) for pid in pids(root))
    assert not (root / "c").exists()


def test_what_the_user_can_mend_is_said_by_the_stage(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StageFailedError, match="stage a stopped: see its message above"):
        local.run([job(root, "a", "print('error: no such file'); sys.exit(2)"), job(root, "b", needs=("a",))], cores=2)
    assert "[a] error: no such file" in capfd.readouterr().err


def test_the_only_job_says_itself_what_the_user_can_mend(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        local.run([job(root, "a", "print('error: no such file', file=sys.stderr); sys.exit(2)")], cores=2)
    assert (end.value.code, capfd.readouterr().err) == (2, "error: no such file\n")


def test_a_job_that_made_nothing_leaves_no_notes(root: Path) -> None:
    before = {path for path in root.rglob("*") if path.is_file()}
    one = job(root, "new/a", "sys.exit(2)")
    with pytest.raises(SystemExit), local.exclusive(one.logs):
        local.run([one], cores=2)
    assert not one.logs.exists()
    assert not one.logs.parent.exists()
    assert {path for path in root.rglob("*") if path.is_file()} - before <= set(root.rglob("*.pids/*"))


def test_a_directory_that_was_there_before_stays(root: Path) -> None:
    (root / "mine").mkdir()
    with local.exclusive(root / "mine" / "logs"):
        pass
    assert list((root / "mine").iterdir()) == []
    with local.exclusive(root / "mine"):
        pass
    assert list((root / "mine").iterdir()) == []


def test_what_ranks_said_is_kept(root: Path) -> None:
    one = job(root, "a", "time.sleep(600)", "print('the reason'); sys.exit(1)")
    with pytest.raises(StageFailedError, match=r"\nits last lines:\n  the reason$"), local.exclusive(one.logs):
        local.run([one], cores=2)
    assert (one.logs / "rank1.log").read_text() == "the reason\n"
    assert one.config_file.exists()


def test_a_job_may_end_before_its_stage_is_done(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Such as when other tasks make the rest; a stage that was told to stop is another matter."""
    leaves = "stage.complete = False"
    shared = dataclasses.replace(job(root, "a", leaves), always_starts=True)
    local.run([shared], cores=2)
    assert "a: its share is done in " in capfd.readouterr().err


def test_a_job_that_always_starts_does_so_when_it_is_done(root: Path) -> None:
    one = dataclasses.replace(job(root, "a", "pass"), always_starts=True)
    local.run([one], cores=2)
    local.run([one], cores=2)
    assert len(pids(root)) == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_rank_killed_by_a_signal_is_named(root: Path, number: signal.Signals) -> None:
    # Rank 0 ends too, as a rank does that lost its peer.
    dies = f"print('last words', flush=True); (out.parent / 'dying').touch(); os.kill(os.getpid(), {int(number)})"
    loses = "while not (out.parent / 'dying').exists(): time.sleep(0.001)\nos._exit(1)"
    with pytest.raises(StageFailedError) as caught:
        local.run([job(root, "a", loses, dies)], cores=2)
    assert f"rank 1 of stage a was killed by {number.name}" in str(caught.value)
    assert "last words" in str(caught.value)


def test_a_rank_that_does_not_leave_is_killed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "GRACE_SECONDS", 0.3)
    stays = "signal.signal(signal.SIGTERM, signal.SIG_IGN); (out.parent / 'deaf').touch(); time.sleep(600)"
    fails = "while not (out.parent / 'deaf').exists(): time.sleep(0.01)\nsys.exit(1)"
    with pytest.raises(StageFailedError, match="rank 1 of stage a left with exit code 1"):
        local.run([job(root, "a", stays, fails)], cores=2)
    assert not any(alive(pid) for pid in pids(root))


def test_what_a_rank_started_is_stopped_with_it(root: Path) -> None:
    child = "child = subprocess.Popen(['sleep', '600']); (pids / str(child.pid)).touch()"
    with pytest.raises(StageFailedError):
        local.run([job(root, "a", f"{child}; time.sleep(600)", "time.sleep(0.5); sys.exit(1)")], cores=2)
    assert len(pids(root)) == 3
    assert wait_until(lambda: not any(alive(pid) for pid in pids(root)), seconds=2)


def test_a_port_in_use_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        with pytest.raises(ResourceError, match=rf"port {port} \(MASTER_PORT\) is in use"):
            local.run([job(root, "a", "pass", "pass")], cores=2)
    assert not (root / "a").exists()
    local.run([job(root, "a", "pass", "pass")], cores=2)
    assert counts(root, "a")["port"] == str(port)


def test_a_port_that_is_none_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", "http")
    with pytest.raises(ResourceError, match="MASTER_PORT is 'http'"):
        local.run([job(root, "a", "pass", "pass")], cores=2)


def test_jobs_of_several_ranks_side_by_side_have_ports_of_their_own(root: Path) -> None:
    local.run([job(root, "a", "pass", "pass"), job(root, "b", "pass", "pass")], cores=4)
    assert counts(root, "a")["port"] != counts(root, "b")["port"]


def test_a_directory_has_one_run_at_a_time(root: Path) -> None:
    second = local.exclusive(root / "study")
    with (
        local.exclusive(root / "study"),
        pytest.raises(ResourceError, match=f"study is in use by process {os.getpid()}; wait for it or stop it"),
    ):
        second.__enter__()
    with local.exclusive(root / "study"):
        pass


@pytest.fixture
def launcher(root: Path) -> Any:
    """`run` with two ranks that wait for ever, in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, str(root / "launcher_under_test.py"), str(root)], stderr=subprocess.PIPE
    )
    assert wait_until(lambda: len(pids(root)) == 2)
    yield process
    process.kill()
    process.wait()
    process.stderr.close()
    for pid in filter(alive, pids(root)):
        os.kill(pid, signal.SIGKILL)


def test_ctrl_c_leaves_nothing_running(root: Path, launcher: subprocess.Popen[bytes]) -> None:
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(timeout=20) == 130
    assert not any(alive(pid) for pid in pids(root))


def test_a_killed_launcher_takes_its_ranks_along_and_frees_the_directory(
    root: Path, launcher: subprocess.Popen[bytes]
) -> None:
    launcher.kill()
    assert wait_until(lambda: not any(alive(pid) for pid in pids(root)))
    with local.exclusive(root):
        pass
