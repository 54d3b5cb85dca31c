"""How fast this rank multiplies and copies, and how fast nodes sum their numbers together: the torch part of `check.py`.

First the ranks within every node, then pairs of nodes, then all. A pair of nodes takes about a second with NCCL, most of it to meet;
rounds of pairs run side by side. No meeting takes longer than `MEETING_SECONDS`, whatever hangs.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # not in __all__

from megatron_octo import units
from megatron_octo.launch.node.links import Link

#: Two nodes that have not met by then will not.
GROUP_TIMEOUT = timedelta(seconds=60)
#: A little longer, so that gloo and NCCL may say themselves what is wrong. Both can hang for ever while they connect.
MEETING_SECONDS = GROUP_TIMEOUT.total_seconds() + 5.0
#: Left to itself, torch kills a process whose sum takes too long, and with it the other end of a broken link like the broken one: the sum
#: shall be given up (2) and nobody watch the watchdog (docs.pytorch.org/docs/stable/torch_nccl_environment_variables.html).
NCCL_SETTINGS = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "2", "TORCH_NCCL_ENABLE_MONITORING": "0"}
#: A connection takes milliseconds, or there is none.
KNOCK_SECONDS = 5.0
#: Timed runs, of which the fastest counts: others use the network too.
REPEATS = 5
#: Large enough that latency does not count: a step of training sums more.
NCCL_BYTES, GLOO_BYTES = 256 * units.MIB, 8 * units.MIB
#: Side of the square matrices, and how long they are multiplied.
GPU_SIDE, CPU_SIDE = 8192, 512
MATMUL_SECONDS = 0.3
#: Several times a GPU's caches, and little beside what another rank's look at memory in use lets pass.
COPY_BYTES = 256 * units.MIB


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """How the ranks of all nodes come together."""

    backend: str
    address: str
    port: int
    rank: int
    world_size: int
    local_rank: int


def has_gpu() -> bool:
    return torch.cuda.is_available()


def device(local_rank: int) -> torch.device:
    """This rank's own; Slurm may show a task nothing but its own GPU."""
    return torch.device("cuda", local_rank % torch.cuda.device_count()) if has_gpu() else torch.device("cpu")


def multiply(on: torch.device) -> float:
    """FLOP/s of square products, bf16 on a GPU and fp32 on a CPU."""
    side, kind = (GPU_SIDE, torch.bfloat16) if on.type == "cuda" else (CPU_SIDE, torch.float32)
    matrix = torch.ones(side, side, device=on, dtype=kind)
    torch.mm(matrix, matrix)  # libraries are loaded at the first
    _wait_for(on)
    started, times = time.monotonic(), 0
    while time.monotonic() - started < MATMUL_SECONDS:
        torch.mm(matrix, matrix)
        _wait_for(on)
        times += 1
    return times * 2 * side**3 / (time.monotonic() - started)


def copy(on: torch.device) -> float:
    """Bytes/s that a GPU's memory reads and writes while it copies: the fastest of a few copies."""
    source = torch.zeros(COPY_BYTES, device=on, dtype=torch.uint8)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(REPEATS):
        _wait_for(on)
        started = time.monotonic()
        target.copy_(source)
        _wait_for(on)
        seconds.append(time.monotonic() - started)
    return 2 * COPY_BYTES / min(seconds)


def measure(
    meeting: Meeting,
    rounds: Sequence[Sequence[tuple[int, int]]],
    nodes: Sequence[Sequence[int]],
    say: Callable[[Link], None],
) -> float | None:
    """This rank's part in the sums within its node, of pairs of nodes, and of all ranks.

    Args:
        rounds: pairs of node numbers that are measured at the same time.
        nodes: ranks by node number.
        say: takes the links whose first rank this is, each as soon as it is measured: what comes after may hang.
    Returns: bytes/s of all ranks together; None where they do not meet.
    """
    on = device(meeting.local_rank) if meeting.backend == "nccl" else torch.device("cpu")
    mine = next(number for number, ranks in enumerate(nodes) if meeting.rank in ranks)
    try:
        store = TCPStore(
            meeting.address, meeting.port, is_master=meeting.rank == 0, timeout=GROUP_TIMEOUT, wait_for_workers=False
        )
        here = _address(meeting)
        with _door(store, here, mine, is_first=meeting.rank == nodes[mine][0]):
            broken = 0
            for who, ranks in _meetings(mine, rounds, nodes):
                link = _link(store, who, ranks, meeting.rank, on, here)
                broken += link.trouble is not None
                if meeting.rank == ranks[0]:
                    say(link)
            return _all_reduce(store, meeting, on, here, broken=broken)
    except (RuntimeError, OSError) as error:  # the store is on node 0
        say(_broken(tuple(sorted({0, mine})), str(error)))
        return None


def _meetings(
    mine: int, rounds: Sequence[Sequence[tuple[int, int]]], nodes: Sequence[Sequence[int]]
) -> Iterator[tuple[tuple[int, ...], list[int]]]:
    """The nodes that meet, and their ranks: this one's among themselves, then with others."""
    if len(nodes[mine]) > 1:
        yield (mine,), sorted(nodes[mine])
    for pair in (pair for pairs in rounds for pair in pairs if mine in pair):
        yield pair, sorted([*nodes[pair[0]], *nodes[pair[1]]])


def _address(meeting: Meeting) -> str:
    """Of this rank, in the network in which rank 0 is reached."""
    if meeting.rank == 0:
        return meeting.address
    with socket.create_connection((meeting.address, meeting.port)) as there:
        return str(there.getsockname()[0])


@contextlib.contextmanager
def _door(store: Store, here: str, mine: int, *, is_first: bool) -> Iterator[None]:
    """Somewhere to knock, for each node: gloo and NCCL take minutes to find out that there is no way."""
    if not is_first:
        yield
        return
    with socket.create_server(("", 0)) as listener:
        store.set(f"door{mine}", f"{here} {listener.getsockname()[1]}")
        yield


def _knock(store: Store, own: Store, pair: tuple[int, ...], *, is_first: bool) -> str | None:
    """Why the two nodes do not reach one another; both get the same answer, in `KNOCK_SECONDS` or so."""
    if is_first:
        host, port = store.get(f"door{pair[1]}").decode().split()
        try:
            socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS).close()
        except OSError as error:
            own.set("knock", f"no connection: {error}")
        else:
            own.set("knock", "")
    return own.get("knock").decode() or None


def _all_reduce(store: Store, meeting: Meeting, on: torch.device, here: str, *, broken: int) -> float | None:
    """Of all ranks. None where some do not reach others."""
    store.add("broken", broken)
    _wait_for_all("measured", store, meeting.world_size)
    try:
        if store.add("broken", 0):
            return None
        return _in_time(_bandwidth, _own(store, "all"), list(range(meeting.world_size)), meeting.rank, on, here)
    except RuntimeError:
        return None
    finally:
        if meeting.rank == 0:  # it takes the store along
            _wait_for_all("left", store, meeting.world_size)
        else:
            store.add("left", 1)


def _wait_for_all(what: str, store: Store, world_size: int) -> None:
    """Until all ranks are at this point: some may have had to wait for others. Rank 0 ends it where one will never come (`desk.py`)."""
    store.add(what, 1)
    while store.add(what, 0) < world_size:
        time.sleep(0.05)


def _link(store: Store, nodes: tuple[int, ...], ranks: Sequence[int], rank: int, on: torch.device, here: str) -> Link:
    try:
        own = _own(store, "-".join(map(str, nodes)))
        _wait_for_all("here", own, len(ranks))
        if len(nodes) > 1 and (trouble := _knock(store, own, nodes, is_first=rank == ranks[0])):
            return _broken(nodes, trouble)
        return Link(nodes=nodes, bytes_per_second=_in_time(_bandwidth, own, ranks, rank, on, here))
    except RuntimeError as error:
        return _broken(nodes, str(error))


def _own(store: Store, name: str) -> Store:
    """A meeting's own part of the store: in one that another group used, a rank may find its addresses, and wait there for ever.

    Over a connection of its own: a meeting that hangs may hold the lock of its connection.
    """
    return PrefixStore(name, store.clone())  # type: ignore[attr-defined]  # not in its stub


def _in_time(work: Callable[..., float], *given: Any) -> float:
    """What comes of the work. Raises `RuntimeError` when that takes too long; the work then goes on for nobody."""
    result = Future[float]()

    def run() -> None:
        try:
            result.set_result(work(*given))
        except RuntimeError as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return result.result(MEETING_SECONDS)
    except TimeoutError:
        raise RuntimeError(f"hangs for {MEETING_SECONDS:.0f} s") from None


def _bandwidth(store: Store, ranks: Sequence[int], rank: int, on: torch.device, here: str) -> float:
    """What every rank sends per second, if the sum is made as a ring: NCCL's "bus bandwidth"."""
    group = _group(store, ranks, rank, on, here)
    num_bytes = NCCL_BYTES if on.type == "cuda" else GLOO_BYTES
    numbers = torch.zeros(num_bytes // 4, device=on)
    _sum(numbers, group, on)  # brings them together, and is not counted
    best = min(_sum(numbers, group, on) for _ in range(REPEATS))
    return 2 * (len(ranks) - 1) / len(ranks) * num_bytes / best


def _group(store: Store, ranks: Sequence[int], rank: int, on: torch.device, here: str) -> Any:
    """Some ranks, without the others: `torch.distributed.new_group` makes all of them wait for a pair that does not meet."""
    if on.type != "cuda":
        # By itself gloo takes the address of the host's name, on Debian 127.0.1.1: others are refused there, and wait.
        options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # not in its stub
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=here)]
        options._timeout = GROUP_TIMEOUT
        return dist.ProcessGroupGloo(store, ranks.index(rank), len(ranks), options)
    os.environ |= NCCL_SETTINGS
    torch.cuda.set_device(on)
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = GROUP_TIMEOUT
    return dist.ProcessGroupNCCL(store, ranks.index(rank), len(ranks), options)


def _sum(numbers: torch.Tensor, group: Any, on: torch.device) -> float:
    """Seconds of one."""
    started = time.monotonic()
    group.allreduce([numbers]).wait()
    _wait_for(on)
    return time.monotonic() - started


def _broken(nodes: tuple[int, ...], why: str) -> Link:
    return Link(nodes=nodes, bytes_per_second=0.0, trouble=why.partition("\n")[0])


def _wait_for(on: torch.device) -> None:
    if on.type == "cuda":
        torch.cuda.synchronize(on)
