"""One Ray cluster for one Slurm step, and a command on it: `srun --ntasks-per-node=1 python -m megatron_octo.rl.ray_stage -- COMMAND...`.

The first node runs Ray's head and, once every node has joined, the command, with RAY_ADDRESS set; the step's exit status is the
command's. SIGTERM and SIGUSR1 go to the command. `ray stop` and `ray symmetric-run` end every Ray process the user has on a
node and lose exit codes; here each node ends its own process group only, so two steps can share a node.

The port comes from the job's number, below Ray's worker ports (10002 to 19999): two steps do not meet.
"""

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo.errors import OctoError, ResourceError
from megatron_octo.process import end, exit_code, interrupt
from megatron_octo.rl import ray_cluster

#: 6,380 to 9,979.
FIRST_PORT, NUM_PORTS = 6380, 3600
POLL_SECONDS = 0.5
GRACE_SECONDS = 10.0
#: The head is gone after so many failed looks.
MISSES = 3


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where the head is and who joins it."""

    head: str
    port: int
    nodes: int
    rank: int

    @property
    def address(self) -> str:
        return f"{self.head}:{self.port}"


def from_slurm(environment: Mapping[str, str], *, head: str | None) -> Cluster:
    """The cluster of this step; without Slurm, this machine alone.

    Raises:
        ResourceError: several nodes and no way to learn which is the first, or several tasks on one.
    """
    nodes = int(environment.get("SLURM_STEP_NUM_NODES", environment.get("SLURM_NNODES", "1")))
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", nodes))
    if tasks != nodes:
        raise ResourceError(
            f"this step has {tasks} tasks on {nodes} nodes, and each starts Ray for a whole node; give srun --ntasks-per-node=1"
        )
    number = int(environment.get("SLURM_JOB_ID", os.getpid())) * 7 + int(environment.get("SLURM_STEP_ID", 0))
    return Cluster(
        head=head or (_first_node(environment) if nodes > 1 else "127.0.0.1"),
        port=FIRST_PORT + number % NUM_PORTS,
        nodes=nodes,
        rank=int(environment.get("SLURM_NODEID", "0")),
    )


def _first_node(environment: Mapping[str, str]) -> str:
    names = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_JOB_NODELIST", ""))
    try:
        listed = subprocess.run(["scontrol", "show", "hostnames", names], capture_output=True, text=True, check=True)
        first = listed.stdout.split()[0]
        address = socket.gethostbyname(first)
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise ResourceError(
            f"the address of the first of the nodes '{names}' is unknown: {error}; name it with --head"
        ) from error
    if address.startswith("127."):  # Debian gives a machine's own name 127.0.1.1
        raise ResourceError(
            f"this machine takes {first}, the first node, for {address}, where no other finds it; name its address with --head"
        )
    return address


def run(
    cluster: Cluster, command: Sequence[str], *, ray_options: Sequence[str], logs: Path, join_seconds: float
) -> int:
    """This node's part, to the end. Returns the exit status of the step."""
    # A worker whose head has left would try for minutes.
    environment = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"} | os.environ
    environment |= {"RAY_ADDRESS": cluster.address, "RAY_USAGE_STATS_ENABLED": "0"}
    # Until the command gets it; by default it would end this process and leave Ray.
    signal.signal(signal.SIGUSR1, interrupt)
    if cluster.rank > 0:
        _wait_for_head(cluster, join_seconds)
    log = logs / f"ray-{cluster.rank:04d}.log"
    ray = _start_ray(cluster, ray_options, log, environment)
    try:
        if cluster.rank > 0:
            return _stay(cluster, ray, log)
        _wait_for_nodes(cluster, ray, log, environment, join_seconds)
        return _drive(command, environment)
    finally:
        end(ray, grace_seconds=GRACE_SECONDS)


def _start_ray(
    cluster: Cluster, options: Sequence[str], log: Path, environment: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    if cluster.rank == 0:
        start += ["--head", f"--node-ip-address={cluster.head}", f"--port={cluster.port}", "--include-dashboard=false"]
    else:
        start += [f"--address={cluster.address}"]
    log.parent.mkdir(parents=True, exist_ok=True)
    own = {key: value for key, value in environment.items() if key != "RAY_ADDRESS"}
    with log.open("a") as said:
        return subprocess.Popen([*start, *options], env=own, start_new_session=True, stdout=said, stderr=said)


def _wait_for_head(cluster: Cluster, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not _head_answers(cluster):
        if time.monotonic() > deadline:
            raise ResourceError(f"no Ray head at {cluster.address} in {seconds:.0f} s; see the first node's log")
        time.sleep(POLL_SECONDS)


def _wait_for_nodes(
    cluster: Cluster, ray: "subprocess.Popen[bytes]", log: Path, environment: Mapping[str, str], seconds: float
) -> None:
    deadline, joined, doubt = time.monotonic() + seconds, 0, ""
    while joined < cluster.nodes:
        if ray.poll() is not None:
            raise OctoError(f"Ray's head ended with {ray.returncode} before the nodes joined; see {log}")
        if time.monotonic() > deadline:
            raise ResourceError(
                f"{joined} of {cluster.nodes} nodes joined in {seconds:.0f} s; see the logs in {log.parent}{doubt}"
            )
        time.sleep(POLL_SECONDS)
        if _head_answers(cluster):
            try:
                joined = ray_cluster.nodes(environment)
            except ResourceError as error:  # it may not be up yet
                doubt = f". {error}"


def _head_answers(cluster: Cluster) -> bool:
    try:
        socket.create_connection((cluster.head, cluster.port), 2).close()
    except OSError:
        return False
    return True


def _drive(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """The command's exit status, as a shell counts it: 128 and the signal's number where one ended it."""
    driver = subprocess.Popen(command, env=environment)

    def forward(number: int, _: Any) -> None:
        driver.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, forward)
    # Ctrl-C reaches the command too, and until it has ended it needs Ray.
    signal.signal(signal.SIGINT, lambda *_: None)
    code = driver.wait()
    return 128 - code if code < 0 else code


def _stay(cluster: Cluster, ray: "subprocess.Popen[bytes]", log: Path) -> int:
    """A node of the cluster until the head leaves, which is how a step ends; 1 where its own Ray ended first."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # the head's command decides
    missed = 0
    while missed < MISSES:
        missed = 0 if _head_answers(cluster) else missed + 1
        if ray.poll() is not None and not missed:
            print(f"Ray ended with {ray.returncode} on node {cluster.rank}; see {log}", file=sys.stderr, flush=True)
            return 1
        time.sleep(POLL_SECONDS)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="a Ray cluster for one Slurm step, and a command on it")
    parser.add_argument("--head", help="address of the first node; default: from Slurm")
    parser.add_argument("--logs", type=Path, default=Path("ray-logs"), help="where Ray's own words go, a file per node")
    parser.add_argument("--join-seconds", type=float, default=300.0, help="until all nodes must have joined")
    parser.add_argument("--ray", default="", help="more options of `ray start`, as one word")
    parser.add_argument("command", nargs="+", help="after --: what to run on the cluster")
    given = parser.parse_args()
    return exit_code(
        lambda: run(
            from_slurm(os.environ, head=given.head),
            given.command,
            ray_options=shlex.split(given.ray),
            logs=given.logs,
            join_seconds=given.join_seconds,
        )
    )


if __name__ == "__main__":
    raise SystemExit(main())
