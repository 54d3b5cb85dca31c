"""Runs a function on gloo ranks that are forks of one process that imported Megatron.

Not of the test process: by then that has threads, which a fork loses, and its first parallel loop would wait for them for ever.
"""

import multiprocessing
import multiprocessing.connection
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

TIMEOUT_SECONDS = 60.0


def on_ranks(job: Callable[..., Any], size: int, scratch: Path, *arguments: Any) -> list[Any]:
    """Results of `job(*arguments)` by rank. The job finds its place in the environment torchrun would give it."""
    fork = multiprocessing.get_context("forkserver")
    fork.set_forkserver_preload(["megatron_octo.training.phase"])
    scratch.mkdir(parents=True, exist_ok=True)
    # Bound to a port the system chose, by the store that rank 0 then connects to like all others.
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = [
        fork.Process(target=_rank, args=(job, rank, size, store.port, scratch, arguments), daemon=True)
        for rank in range(size)
    ]
    for rank in ranks:
        rank.start()
    _wait(ranks)
    assert [rank.exitcode for rank in ranks] == [0] * size
    return [torch.load(scratch / f"rank{rank}.pt") for rank in range(size)]


def _wait(ranks: list[Any]) -> None:
    """Until all have ended; the others are killed when one fails, or when time is over."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while any(rank.is_alive() for rank in ranks) and time.monotonic() < deadline:
        multiprocessing.connection.wait([rank.sentinel for rank in ranks if rank.is_alive()], timeout=1.0)
        if any(rank.exitcode for rank in ranks):
            break
    for rank in ranks:
        rank.kill()
        rank.join()


def _rank(job: Callable[..., Any], rank: int, size: int, port: int, scratch: Path, arguments: tuple[Any, ...]) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1",
        # The store is the parent's: no rank starts one.
        "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
    torch.set_num_threads(1)
    torch.save(job(*arguments), scratch / f"rank{rank}.pt")
