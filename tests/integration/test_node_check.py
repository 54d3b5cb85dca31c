"""The job's first minute, with real processes for the ranks: nodes that are well, and nodes that are not."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

HOSTS = "node0,node1,node2"
#: A driver that has seen better days, of one GPU.
NVIDIA_SMI = """#!/bin/sh
case "$1" in
  *memory.used*) echo "0, NVIDIA H100 80GB HBM3, 4, 12" ;;
  *) echo "Field is not a valid field to query." ; exit 2 ;;
esac
"""


@dataclass(frozen=True)
class Ended:
    codes: tuple[int, ...]
    said: tuple[str, ...]
    verdict: dict[str, Any]

    def checks(self) -> dict[str, str]:
        return {check["what"]: check["text"] for check in self.verdict["checks"]}

    def failing(self) -> dict[str, str]:
        return {check["what"]: check["text"] for check in self.verdict["checks"] if check["state"] == "fail"}


def free_port() -> int:
    with socket.create_server(("", 0)) as probe:
        return int(probe.getsockname()[1])


def check(
    directory: Path,
    *,
    ranks: Sequence[int] = (0, 1, 2),
    environments: Mapping[int, dict[str, str]] | None = None,
    directories: Mapping[int, Path] | None = None,
    port: int | None = None,
    address: str = "127.0.0.1",
    inside: Callable[[int], list[str]] = lambda rank: [],
    options: Sequence[str] = (),
    world_size: int = 3,
    hosts: str = HOSTS,
    gives_up_on: int | None = None,
) -> Ended:
    """Start `ranks` of `world_size`, each a node of its own unless `environments` says otherwise, as Slurm would.

    Args:
        inside: what a rank's command is started with.
        gives_up_on: a rank that does not end by itself; it is killed once rank 0 has ended.
    """
    started = []
    settings = {
        "SLURM_NTASKS": str(world_size),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port or free_port()),
        "OMP_NUM_THREADS": "1",
    }
    for rank in ranks:
        own = (
            settings
            | {"SLURM_PROCID": str(rank), "SLURMD_NODENAME": f"node{rank}"}
            | (environments or {}).get(rank, {})
        )
        command = [
            sys.executable,
            "-m",
            "megatron_octo.launch.node.check",
            str((directories or {}).get(rank, directory)),
        ]
        started.append(
            subprocess.Popen(
                [*inside(rank), *command, "--hosts", hosts, "--patience", "1", *options],
                env=os.environ | own,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    said = []
    for rank, process in zip(ranks, started, strict=True):
        if rank == gives_up_on:
            process.kill()
        said.append(process.communicate(timeout=240)[0])
    verdict = json.loads((directory / "verdict.json").read_text())
    return Ended(codes=tuple(process.returncode for process in started), said=tuple(said), verdict=verdict)


def test_nodes_that_are_well(tmp_path: Path) -> None:
    ended = check(tmp_path / "nodes")
    assert ended.codes == (0, 0, 0), ended.said
    assert (ended.verdict["passes"], ended.verdict["exclude"], ended.verdict["hosts"]) == (
        True,
        [],
        ["node0", "node1", "node2"],
    )
    assert sorted(link["nodes"] for link in ended.verdict["links"]) == [[0, 1], [0, 2], [1, 2]]
    assert all(link["bytes_per_second"] > 1e6 for link in ended.verdict["links"])
    assert ended.verdict["all_reduce_bytes_per_second"] > 1e6
    assert [path.name for path in (tmp_path / "nodes").iterdir()] == ["verdict.json"]
    assert "bandwidth" in ended.said[0]
    assert ended.said[1:] == ("", "")


def test_two_nodes_meet_each_for_itself_then_as_a_pair_and_then_as_everybody(tmp_path: Path) -> None:
    """The same ranks three times: who met before must not be taken for who meets now."""
    nodes = {rank: {"SLURMD_NODENAME": f"node{rank // 2}", "SLURM_LOCALID": f"{rank % 2}"} for rank in range(4)}
    ended = check(tmp_path / "nodes", ranks=range(4), environments=nodes, world_size=4, hosts="node0,node1")
    assert ended.codes == (0, 0, 0, 0), ended.said
    assert [link["nodes"] for link in ended.verdict["links"]] == [[0], [0, 1], [1]]
    assert all(link["bytes_per_second"] > 1e6 for link in ended.verdict["links"])
    assert ended.verdict["all_reduce_bytes_per_second"] > 1e6
    assert "/s per node, slowest node" in ended.checks()["links within nodes"]


def test_one_node_measures_the_link_among_its_ranks(tmp_path: Path) -> None:
    one = {1: {"SLURMD_NODENAME": "node0", "SLURM_LOCALID": "1"}}
    ended = check(tmp_path / "nodes", ranks=(0, 1), environments=one, world_size=2, hosts="node0")
    assert ended.codes == (0, 0), ended.said
    assert [link["nodes"] for link in ended.verdict["links"]] == [[0]]
    assert re.fullmatch(r"node0 [\d.]+ [MG]B/s", ended.checks()["links within nodes"])


#: A rank to which something happens when torch's gloo is asked for this: an address before it meets others, or a sum with them.
UNLUCKY = """
import os, signal, sys, time
from torch.distributed import ProcessGroupGloo
from megatron_octo.launch.node import check, collectives
def hangs(*_, **__):
    time.sleep(1000)
def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
def stopped(*_, **__):
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(1000)  # other threads may be stopped before this one
def fails(*_, **__):
    raise TypeError("an argument that this torch does not know")
what, when, meeting_seconds = sys.argv[1:4]
collectives.MEETING_SECONDS = float(meeting_seconds)
if what != "well":
    setattr(ProcessGroupGloo, when, globals()[what])
code = check.main(sys.argv[7:])
sys.stdout.flush()
os._exit(code)
"""


@pytest.mark.parametrize(
    ("what", "when"),
    [("killed", "create_device"), ("killed", "allreduce"), ("fails", "create_device"), ("stopped", "create_device")],
)
def test_a_rank_that_ends_while_links_are_measured(tmp_path: Path, what: str, when: str) -> None:
    """The others may wait for it in gloo for ever, and are not waited for."""

    def inside(rank: int) -> list[str]:
        return [sys.executable, "-c", UNLUCKY, what, when, "65"] if rank == 1 else []

    ended = check(tmp_path / "nodes", inside=inside, gives_up_on=1)
    assert (ended.codes[0], ended.codes[2]) == (69, 0), ended.said
    assert ended.failing() == {"nodes": "rank 1 left, or hangs, while links were measured, on node1"}
    assert ended.verdict["exclude"] == ["node1"]
    assert ended.verdict["seconds"] < 100  # the start on busy cores counts; rank 0 gives up on all after 300
    assert ended.said[2] == ""


def test_a_rank_that_lives_but_meets_nobody(tmp_path: Path) -> None:
    def inside(rank: int) -> list[str]:
        return [sys.executable, "-c", UNLUCKY, "hangs" if rank == 1 else "well", "create_device", "10"]

    ended = check(tmp_path / "nodes", inside=inside)
    assert ended.codes == (69, 0, 0), ended.said
    assert ended.failing() == {"bandwidth": "node1: node0 - node1 hangs for 10 s, node1 - node2 hangs for 10 s"}
    assert ended.verdict["exclude"] == ["node1"]


def test_a_node_whose_own_ranks_do_not_meet(tmp_path: Path) -> None:
    """The other one does not meet it either, and is not to blame."""
    nodes = {rank: {"SLURMD_NODENAME": f"node{rank // 2}", "SLURM_LOCALID": f"{rank % 2}"} for rank in range(4)}

    def inside(rank: int) -> list[str]:
        return [sys.executable, "-c", UNLUCKY, "hangs" if rank == 3 else "well", "create_device", "10"]

    ended = check(
        tmp_path / "nodes", ranks=range(4), environments=nodes, inside=inside, world_size=4, hosts="node0,node1"
    )
    assert ended.codes == (69, 0, 0, 0), ended.said
    assert ended.failing().keys() == {"links within nodes"}
    assert ended.failing()["links within nodes"].startswith("node1: hangs for 10 s")
    assert ended.verdict["exclude"] == ["node1"]


#: A look at the node that does not come back, where rank 0 gives up on measurements at once.
HANGS = """
import sys, time
from megatron_octo.launch.node import check
check.MEASURING_SECONDS = 0
check.collect = lambda host: time.sleep(1000)
check.main(sys.argv[1:])
"""


def test_rank_0_does_not_hang_for_ever(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HANGS, str(tmp_path), "--timeout", "1", "--patience", "1"]
    own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ended = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert ", line 5 in <lambda>" in ended.stderr  # where it hung


@pytest.fixture
def worn_gpu(tmp_path: Path) -> dict[str, str]:
    """What a node sees that has such a driver."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nvidia-smi").write_text(NVIDIA_SMI)
    (tmp_path / "bin/nvidia-smi").chmod(0o755)
    return {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}


@pytest.fixture
def other_version(tmp_path: Path) -> dict[str, str]:
    """What a node sees that has another version of a package."""
    info = tmp_path / "site/safetensors-0.0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: safetensors\nVersion: 0.0.1\n")
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])}


def test_a_worn_gpu_and_another_version(
    tmp_path: Path, worn_gpu: dict[str, str], other_version: dict[str, str]
) -> None:
    ended = check(tmp_path / "nodes", environments={1: worn_gpu, 2: other_version})
    assert ended.codes == (69, 0, 0), ended.said
    assert ended.verdict["exclude"] == ["node1", "node2"]
    assert ended.failing().keys() == {"GPUs", "versions"}
    assert ended.failing()["GPUs"] == "node1: GPU 0 has 12 uncorrected memory errors"
    assert ended.failing()["versions"].startswith("node2: safetensors 0.0.1, not ")
    assert "--exclude=node1,node2" in ended.said[0]
    assert (tmp_path / "nodes/exclude").read_text() == "node1,node2\n"


def test_a_node_that_does_not_come_and_one_that_sees_another_disk(tmp_path: Path) -> None:
    ended = check(tmp_path / "nodes", ranks=(0, 1), directories={1: tmp_path / "other"}, options=["--timeout", "20"])
    assert ended.codes == (69, 0), ended.said
    assert ended.failing() == {
        "nodes": "rank 2 did not reach rank 0, on node2",
        "shared directory": f"node1: does not see in {tmp_path / 'other'} what rank 0 wrote there",
    }
    assert ended.verdict["exclude"] == ["node1", "node2"]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_port_that_is_taken(tmp_path: Path, taken_port: int) -> None:
    ended = check(tmp_path / "nodes", ranks=(0,), port=taken_port)
    assert ended.codes == (69,), ended.said
    assert ended.failing() == {"port": f"node0: {taken_port} is taken"}
    assert ended.verdict["exclude"] == ["node0"]


def ip(*words: str) -> bool:
    return subprocess.run(["ip", *words], capture_output=True).returncode == 0


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Callable[[int], list[str]]]:
    """Three machines, as far as the network goes, on one switch: 10.79.0.10 and so on; what to start a command with there."""
    if shutil.which("ip") is None or not ip("link", "add", "octo0", "type", "bridge"):
        pytest.skip("network namespaces need root and iproute2")
    (tmp_path / "hosts").write_text(
        "127.0.0.1 localhost\n" + "".join(f"10.79.0.1{rank} octo{rank}\n" for rank in range(3))
    )
    try:
        ip("link", "set", "octo0", "up")
        for rank in range(3):
            name, end = f"octo{rank}", f"octov{rank}"
            if not ip("netns", "add", name):
                pytest.skip("network namespaces are not permitted here")
            ip("link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", end, "master", "octo0", "up")
            ip("-n", name, "addr", "add", f"10.79.0.1{rank}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        # A host's own name must lead to its own address, as on a cluster: gloo listens there.
        start = f'hostname "$0"; mount --bind {tmp_path / "hosts"} /etc/hosts; exec "$@"'
        yield lambda rank: [
            "nsenter",
            f"--net=/run/netns/octo{rank}",
            "unshare",
            "--uts",
            "--mount",
            "bash",
            "-c",
            start,
            f"octo{rank}",
        ]
    finally:
        for rank in range(3):
            ip("netns", "del", f"octo{rank}")
        ip("link", "del", "octo0")


def test_the_node_with_the_slow_cable_is_named(tmp_path: Path, network: Callable[[int], list[str]]) -> None:
    slow = ["root", "tbf", "rate", "100mbit", "burst", "32kbit", "latency", "50ms"]
    if subprocess.run(["tc", "qdisc", "add", "dev", "octov2", *slow], capture_output=True).returncode != 0:
        pytest.skip("this kernel does not slow a network down (tc tbf)")
    ended = check(tmp_path / "nodes", address="octo0", inside=network)
    assert ended.codes == (69, 0, 0), ended.said
    assert ended.verdict["exclude"] == ["node2"]
    assert ended.failing().keys() == {"bandwidth"}


def test_two_nodes_that_do_not_reach_one_another(tmp_path: Path, network: Callable[[int], list[str]]) -> None:
    ip("-n", "octo1", "route", "add", "blackhole", "10.79.0.12/32")
    ended = check(tmp_path / "nodes", address="octo0", inside=network)
    assert ended.codes == (2, 0, 0), ended.said
    assert "slow: node1 - node2 no connection" in ended.failing()["bandwidth"]
    assert ended.verdict["exclude"] == []  # which of the two it is, nobody can tell
