"""Which Ray cluster a Slurm step makes; a real one on real nodes: tests/openrlhf."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_octo.errors import ResourceError
from megatron_octo.rl.ray_stage import FIRST_PORT, NUM_PORTS, from_slurm

#: A head that does as `{how}` says and then listens. It says when it is told to end.
START = """
import os, signal, socket, sys, time
def end(*_):
    print("Ray ends", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("Ray starts", flush=True)
{how}
port = next(word.partition("=")[2] for word in sys.argv if word.startswith("--port="))
listening = socket.create_server(("127.0.0.1", int(port)))
while True:
    listening.accept()[0].close()
"""
RAY = """
def init(**_): pass
def cluster_resources(): return {}
def nodes(): return [{"Alive": True}]
"""
#: Notes the signals it gets and leaves with 5 at the second.
COMMAND = """
import os, signal, sys, time
def note(number, _):
    got.append(number)
    print("got", signal.Signals(number).name, flush=True)
    if len(got) == 2:
        sys.exit(5)
got = []
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
    signal.signal(number, note)
print("running on", os.environ["RAY_ADDRESS"], flush=True)
time.sleep(60)
time.sleep(60)
"""


def test_without_slurm_it_is_this_machine_alone() -> None:
    cluster = from_slurm({}, head=None)
    assert (cluster.head, cluster.nodes, cluster.rank) == ("127.0.0.1", 1, 0)


def test_nodes_rank_and_port_come_from_the_step() -> None:
    step = {"SLURM_NNODES": "4", "SLURM_STEP_NUM_NODES": "2", "SLURM_NODEID": "1", "SLURM_JOB_ID": "100"}
    cluster = from_slurm(step, head="10.0.0.1")
    assert (cluster.nodes, cluster.rank) == (2, 1)
    assert cluster.address == f"10.0.0.1:{FIRST_PORT + 700}"


def test_two_steps_do_not_share_a_port_and_stay_below_rays_own() -> None:
    ports = [
        from_slurm({"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}, head="h").port
        for job in range(500, 510)
        for step in range(7)
    ]
    assert len(set(ports)) == len(ports)
    assert FIRST_PORT + NUM_PORTS < 10_002


def test_several_nodes_without_names_are_refused() -> None:
    with pytest.raises(ResourceError, match="name it with --head"):
        from_slurm({"SLURM_NNODES": "2"}, head=None)


def test_several_tasks_on_a_node_are_refused() -> None:
    """Each would start Ray on the same port."""
    step = {"SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "16"}
    with pytest.raises(ResourceError, match=r"16 tasks on 2 nodes.*srun --ntasks-per-node=1"):
        from_slurm(step, head="10.0.0.1")
    assert from_slurm(step | {"SLURM_STEP_NUM_TASKS": "2"}, head="10.0.0.1").nodes == 2


def test_a_first_node_that_only_itself_can_reach_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho localhost\necho elsewhere\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ResourceError, match=r"takes localhost, the first node, for 127.*--head"):
        from_slurm({"SLURM_NNODES": "2"}, head=None)


def start(directory: Path, *, how: str = "") -> subprocess.Popen[str]:
    """A step of one node with stand-ins for Ray, in a process group of its own as a terminal gives it one."""
    (directory / "ray" / "scripts").mkdir(parents=True)
    (directory / "ray" / "__init__.py").write_text(RAY)
    (directory / "ray" / "scripts" / "scripts.py").write_text(START.format(how=how))
    words = [
        sys.executable, "-m", "megatron_octo.rl.ray_stage", "--logs", str(directory / "logs"), "--", sys.executable, "-c", COMMAND,
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(directory)}
    return subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )


def line(step: subprocess.Popen[str]) -> str:
    assert step.stdout is not None
    return step.stdout.readline().strip()


def test_signals_reach_the_command_and_ray_outlives_it(tmp_path: Path) -> None:
    step = start(tmp_path)
    assert line(step).startswith("running on 127.0.0.1:")
    step.send_signal(signal.SIGUSR1)
    assert line(step) == "got SIGUSR1"
    os.killpg(step.pid, signal.SIGINT)  # Ctrl-C, to the whole terminal
    assert line(step) == "got SIGINT"
    _, said = step.communicate(timeout=30)
    assert (step.returncode, said) == (5, "")
    assert (tmp_path / "logs" / "ray-0000.log").read_text() == "Ray starts\nRay ends\n"


def test_a_head_that_ends_names_its_log(tmp_path: Path) -> None:
    step = start(tmp_path, how="sys.exit(7)")
    _, said = step.communicate(timeout=30)
    assert step.returncode == 2
    assert said == f"error: Ray's head ended with 7 before the nodes joined; see {tmp_path}/logs/ray-0000.log\n"


def test_a_signal_before_the_command_ends_ray_too(tmp_path: Path) -> None:
    """Slurm's warning before the time limit may come while nodes join."""
    step, log = start(tmp_path, how="time.sleep(60)"), tmp_path / "logs" / "ray-0000.log"
    deadline = time.monotonic() + 30
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    step.send_signal(signal.SIGUSR1)
    _, said = step.communicate(timeout=30)
    assert (step.returncode, "interrupted" in said) == (130, True)
    assert log.read_text() == "Ray starts\nRay ends\n"
