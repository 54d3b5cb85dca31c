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
from megatron_octo.process import exit_code

#: 6,380 to 9,979.
FIRST_PORT, NUM_PORTS = 6380, 3600
POLL_SECONDS = 0.5
GRACE_SECONDS = 10.0
#: The head is gone after so many failed looks.
MISSES = 3
PROBE_SECONDS = 60.0
_COUNT_NODES = "import ray; ray.init(log_to_driver=False, logging_level='ERROR'); print('NODES', sum(node['Alive'] for node in ray.nodes()))"


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
        ResourceError: several nodes and no way to learn which is the first.
    """
    nodes = int(environment.get("SLURM_STEP_NUM_NODES", environment.get("SLURM_NNODES", "1")))
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
        return socket.gethostbyname(listed.stdout.split()[0])
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise ResourceError(
            f"the address of the first of the nodes '{names}' is unknown: {error}; name it with --head"
        ) from error


def run(
    cluster: Cluster, command: Sequence[str], *, ray_options: Sequence[str], logs: Path, join_seconds: float
) -> int:
    """This node's part, to the end. Returns the exit status of the step."""
    environment = os.environ | {"RAY_ADDRESS": cluster.address, "RAY_USAGE_STATS_ENABLED": "0"}
    # A worker whose head has left would try for minutes.
    environment["RAY_gcs_rpc_server_reconnect_timeout_s"] = "5"
    if cluster.rank > 0:
        _wait_for_head(cluster, join_seconds)
    ray = _start_ray(cluster, ray_options, logs, environment)
    try:
        if cluster.rank > 0:
            return _stay(cluster, ray)
        _wait_for_nodes(cluster, ray, environment, join_seconds)
        return _drive(command, environment)
    finally:
        _end(ray)


def _start_ray(
    cluster: Cluster, options: Sequence[str], logs: Path, environment: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    if cluster.rank == 0:
        start += ["--head", f"--node-ip-address={cluster.head}", f"--port={cluster.port}", "--include-dashboard=false"]
    else:
        start += [f"--address={cluster.address}"]
    logs.mkdir(parents=True, exist_ok=True)
    own = {key: value for key, value in environment.items() if key != "RAY_ADDRESS"}
    with (logs / f"ray-{cluster.rank:04d}.log").open("a") as log:
        return subprocess.Popen([*start, *options], env=own, start_new_session=True, stdout=log, stderr=log)


def _wait_for_head(cluster: Cluster, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not _head_answers(cluster):
        if time.monotonic() > deadline:
            raise ResourceError(f"no Ray head at {cluster.address} in {seconds:.0f} s; see the first node's log")
        time.sleep(POLL_SECONDS)


def _wait_for_nodes(
    cluster: Cluster, ray: "subprocess.Popen[bytes]", environment: Mapping[str, str], seconds: float
) -> None:
    deadline, joined = time.monotonic() + seconds, 0
    while joined < cluster.nodes:
        if ray.poll() is not None:
            raise OctoError(f"Ray's head ended with {ray.returncode} before the nodes joined; see its log")
        if time.monotonic() > deadline:
            raise ResourceError(f"{joined} of {cluster.nodes} nodes joined in {seconds:.0f} s; see the others' logs")
        time.sleep(POLL_SECONDS)
        joined = _joined(environment) if _head_answers(cluster) else 0


def _joined(environment: Mapping[str, str]) -> int:
    # A process of its own: this one would stay connected.
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _COUNT_NODES],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 0
    counted = [line.split()[1] for line in asked.stdout.splitlines() if line.startswith("NODES ")]
    return int(counted[0]) if counted else 0


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
    code = driver.wait()
    return 128 - code if code < 0 else code


def _stay(cluster: Cluster, ray: "subprocess.Popen[bytes]") -> int:
    """A node of the cluster until the head leaves, which is how a step ends; 1 where its own Ray ended first."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # the head's command decides
    missed = 0
    while missed < MISSES:
        missed = 0 if _head_answers(cluster) else missed + 1
        if ray.poll() is not None and not missed:
            print(f"Ray ended with {ray.returncode} on node {cluster.rank}", file=sys.stderr, flush=True)
            return 1
        time.sleep(POLL_SECONDS)
    return 0


def _end(ray: "subprocess.Popen[bytes]") -> None:
    """Every process of this node's Ray."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(ray.pid, number)
        except ProcessLookupError:
            return
        try:
            ray.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            continue


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
