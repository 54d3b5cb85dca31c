"""What Slurm's answers mean, how a login node is asked, and how far a stage is."""

import dataclasses
import json
import os
import time
from pathlib import Path

import pytest

from megatron_octo import config
from megatron_octo.errors import ResourceError
from megatron_octo.launch.place import SSH
from megatron_octo.launch.slurm import queue, ssh
from megatron_octo.launch.slurm.queue import Phase, SlurmState
from megatron_octo.launch.status import pace
from megatron_octo.launch.status.pace import Pace
from megatron_octo.recipes import tiny
from megatron_octo.rl.config import RLJob
from megatron_octo.training.config import TrainingJob

LOGIN = SSH(host="cluster", user="me", port=2222)


def program(directory: Path, name: str, script: str) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / name).chmod(0o755)


@pytest.fixture
def bin_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that comes first on PATH."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path / "bin"


@pytest.fixture
def login_node(bin_: Path, tmp_path: Path) -> Path:
    """An `ssh` that runs the last word of its command line as sshd would, where the root directory is another one."""
    root = tmp_path / "elsewhere"
    root.mkdir()
    # No chroot without root: what is absolute below our own directory is moved by text.
    program(
        bin_, "ssh", f'for last; do :; done\nexec sh -c "$(printf %s "$last" | sed "s#{tmp_path}/here#{root}/here#g")"'
    )
    return root


# What 22.05 printed on the throw-away cluster.
SQUEUE = """\
2|PENDING|Dependency||N/A
3|PENDING|Priority||2027-11-23T13:53:24
1|RUNNING|None|node[1-2]|2026-11-23T13:53:24
3|COMPLETED|None|node1|2026-11-23T13:53:24
3|FAILED|NonZeroExitCode|node2|2026-11-23T13:53:24
4|CANCELLED|DependencyNeverSatisfied||2026-11-23T13:53:24
"""


def test_squeue_is_read_by_job() -> None:
    assert queue.parse(SQUEUE) == {
        "1": SlurmState(id="1", word="RUNNING", nodes="node[1-2]", start="2026-11-23T13:53:24"),
        "2": SlurmState(id="2", word="PENDING", reason="Dependency"),
        "3": SlurmState(id="3", word="PENDING", reason="Priority", start="2027-11-23T13:53:24"),
        "4": SlurmState(id="4", word="CANCELLED", reason="DependencyNeverSatisfied", start="2026-11-23T13:53:24"),
    }


@pytest.mark.parametrize(
    ("tasks", "phase"),
    [
        (["COMPLETED", "RUNNING", "FAILED"], Phase.RUNNING),
        (["COMPLETED", "PENDING", "FAILED"], Phase.QUEUED),
        (["COMPLETED", "CANCELLED", "NODE_FAIL"], Phase.FAILED),
        (["COMPLETED", "CANCELLED"], Phase.CANCELLED),
        (["COMPLETED", "COMPLETED"], Phase.COMPLETED),
        (["REQUEUE_HOLD"], Phase.QUEUED),
        (["COMPLETING"], Phase.RUNNING),
        (["OUT_OF_MEMORY"], Phase.FAILED),
    ],
)
def test_the_tasks_of_an_array_are_one_job(tasks: list[str], phase: Phase) -> None:
    assert queue.parse("\n".join(f"9|{task}|None||N/A" for task in tasks))["9"].phase is phase


def test_sacct_names_tasks_and_who_cancelled() -> None:
    text = "7_1|COMPLETED|None|node1|2026-11-23T13:53:24\n7_[2-9]|PENDING|None|None assigned|Unknown\n8|CANCELLED by 0|None|node2|Unknown\n"

    found = queue.parse(text)

    assert found["7"] == SlurmState(id="7", word="PENDING")
    assert found["8"].phase is Phase.CANCELLED


def test_sacct_is_asked_for_what_squeue_forgot_alone(bin_: Path) -> None:
    program(bin_, "squeue", "echo '1|RUNNING|None|node1|N/A'")
    program(bin_, "sacct", 'echo "$*" >"$0.asked"; echo "2|TIMEOUT|TimeLimit|node2|Unknown"')

    queue.states(["1"], login=None, accounting=True)
    assert not (bin_ / "sacct.asked").exists()
    with_ = queue.states(["1", "2"], login=None, accounting=True)
    without = queue.states(["1", "2"], login=None, accounting=False)

    assert {id_: state.word for id_, state in with_.items()} == {"1": "RUNNING", "2": "TIMEOUT"}
    assert list(without) == ["1"]
    assert (bin_ / "sacct.asked").read_text().endswith("--jobs=2\n")


def test_no_job_known_any_more_is_no_error(bin_: Path) -> None:
    program(bin_, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")

    assert queue.states(["1"], login=None, accounting=False) == {}


def test_a_silent_slurm_is_an_error_that_says_what_it_said(bin_: Path) -> None:
    program(bin_, "squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")

    with pytest.raises(ResourceError, match=r"Unable to contact slurm controller.*login node"):
        queue.states(["1"], login=None, accounting=False)


def test_a_machine_without_slurm_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ResourceError, match=r"'squeue' is not on this machine.*login node"):
        queue.states(["1"], login=None, accounting=False)


def test_ssh_asks_nobody_and_keeps_every_word_whole() -> None:
    login = SSH(host="cluster", user="me", port=2222, identity=Path("/keys/id"))

    command = ssh.command(login, ["squeue", "--format=%F|%T", "a b", "$HOME"])

    assert command == [
        "ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-p", "2222", "-i", "/keys/id", "me@cluster", "--",
        "squeue '--format=%F|%T' 'a b' '$HOME'",
    ]  # fmt: skip


@pytest.mark.usefixtures("login_node")
def test_exit_code_and_words_come_back() -> None:
    finished = ssh.run(LOGIN, ["sh", "-c", 'echo "$1"; exit 3', "-", "it's | $HOME"])

    assert (finished.returncode, finished.stdout) == (3, "it's | $HOME\n")


def test_no_connection_says_what_to_try(bin_: Path) -> None:
    program(bin_, "ssh", "echo 'Host key verification failed.' >&2; exit 255")

    with pytest.raises(ResourceError, match=r"Host key verification failed\.; 'ssh -p 2222 me@cluster true'"):
        ssh.run(LOGIN, ["true"])


def test_a_login_node_with_a_file_system_of_its_own_sees_nothing_of_ours(login_node: Path, tmp_path: Path) -> None:
    here, shared = tmp_path / "here", tmp_path / "shared"
    (login_node / "here").mkdir()

    assert [ssh.sees(LOGIN, here), ssh.sees(LOGIN, shared)] == [False, True]
    assert [list(here.iterdir()), list(shared.iterdir())] == [[], []]


def test_files_come_back_from_a_login_node(login_node: Path, tmp_path: Path) -> None:
    there = login_node / "here" / "study"
    for name in ("rl/a b/stage.json", "logs/stable/session-0/rank0.log", "stable/checkpoints/large.bin"):
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_text(name)

    here = tmp_path / "here" / "study"
    ssh.pull(LOGIN, here, ["*stage.json", "logs/stable/*"])

    found = sorted(str(path.relative_to(here)) for path in here.rglob("*") if path.is_file())
    assert found == ["logs/stable/session-0/rank0.log", "rl/a b/stage.json"]
    assert (here / "rl/a b/stage.json").read_text() == "rl/a b/stage.json"


def test_what_is_not_there_says_which_directory(login_node: Path, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"could not fetch .*/here/study: .*its absolute path on both sides"):
        ssh.pull(LOGIN, tmp_path / "here" / "study", ["*"])


def mark(job: TrainingJob) -> dict[str, object]:
    return {"kind": "train", "config": config.to_dict(job)}


def test_the_pace_is_that_of_the_last_steps(tmp_path: Path) -> None:
    job = TrainingJob(recipe=tiny.stable(), shards=tmp_path)
    slow = [
        {"step": step, "tokens": step, "loss": 9.0, "seconds": 99.0, "tokens_per_second": 1} for step in range(1, 51)
    ]
    fast = [
        {
            "step": step,
            "tokens": step * 10,
            "loss": 1.5,
            "seconds": 2.0 if step % 2 else 4.0,
            "tokens_per_second": 600 if step % 2 else 300,
        }
        for step in range(51, 101)
    ]
    cut = '{"step": 101, "tok'
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*slow, *fast]) + cut)

    found = pace.read(tmp_path, mark(job))

    steps = job.recipe.train_iters
    assert found == Pace(
        step=100, steps=steps, tokens=1000, loss=1.5, tokens_per_second=400.0, seconds_left=(steps - 100) * 3.0
    )


def test_rl_has_rewards_and_evaluations_do_not_count_as_steps(tmp_path: Path) -> None:
    rows = [
        {"step": 0, "eval/test/accuracy": 0.1},
        {"step": 1, "reward": -0.5, "seconds": 8.0},
        {"step": 1, "eval/test/accuracy": 0.2},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    assert pace.read(tmp_path, None) == Pace(step=1, reward=-0.5)


def test_the_pace_of_rl_is_of_as_many_steps_whatever_was_evaluated_between(tmp_path: Path) -> None:
    recipe = dataclasses.replace(tiny.rl_stable(), train_steps=100)
    job = RLJob(recipe=recipe, model=tmp_path, prompts=tmp_path, eval_sets={"test": tmp_path})
    rows = [
        row
        for step in range(60)
        for row in (
            {"step": step, "reward": 0.5, "seconds": 2.0 if step < 35 else 4.0},
            {"step": step, "eval/test/accuracy": 0},
        )
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    left = pace.read(tmp_path, {"kind": "rl", "config": config.to_dict(job)}).seconds_left

    assert left == (100 - 59) * (25 * 2.0 + 25 * 4.0) / 50


def test_a_stage_without_steps_has_no_pace(tmp_path: Path) -> None:
    assert pace.read(tmp_path, {"kind": "convert", "config": {}}) == Pace()


def test_before_the_first_step_the_number_of_steps_is_known(tmp_path: Path) -> None:
    job = TrainingJob(recipe=tiny.stable(), shards=tmp_path)

    assert pace.read(tmp_path, mark(job)) == Pace(step=0, steps=job.recipe.train_iters)


def test_a_million_steps_are_read_from_the_end(tmp_path: Path) -> None:
    row = json.dumps({"step": 1, "tokens": 1, "loss": 1.0, "seconds": 1.0, "tokens_per_second": 1.0}) + "\n"
    (tmp_path / "metrics.jsonl").write_text(row * 1_000_000)

    started = time.process_time()
    pace.read(tmp_path, None)

    assert time.process_time() - started < 0.5
