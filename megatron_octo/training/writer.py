"""The background half of a save: one process per rank, forked so that it sees the state as it was, writes this rank's files.

Megatron's own writer forks once more per file and waits for these with `JoinableQueue.join`, which never returns when one is
killed; and it hands its results over through a `spawn`ed manager process, which imports the main module again (3 s at the
first save) and outlives a killed rank. Here the files are written by threads, the results come back in an unnamed file, and
the process dies with its rank.
"""

import contextlib
import gc
import os
import pickle
import queue
import signal
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync

from megatron_octo import checksums, process
from megatron_octo.checksums import Checksum

#: Files per rank and threads that write them. Megatron's default.
FILES_PER_RANK = 2
#: What schedulers and people send to all processes of a job at once.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Inbox:
    """Where this rank's writer process leaves what Megatron wants to know of each file, and the files' checksums."""

    def __init__(self) -> None:
        # Megatron takes the results from this queue; made by us it needs no manager process.
        self.results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        filesystem_async._results_queue = self.results
        self.file = _unnamed_file()
        self.checksums: dict[str, Checksum] = {}

    def route(self, request: AsyncRequest) -> AsyncRequest:
        """The request with our writer in place of Megatron's, its results brought here before Megatron looks for them."""
        request.finalize_fns.insert(0, self._receive)
        if request.async_fn is None:  # nothing to write on this rank
            self.file.close()
            return request
        transforms, _ = request.async_fn.args
        return request._replace(async_fn=partial(write_files, transforms, self.file, os.getpid()))

    def _receive(self) -> None:
        if self.file.closed:
            return
        with self.file:
            self.file.seek(0)
            packed = self.file.read()
        if not packed:
            self.results.put(RuntimeError("the process that wrote the checkpoint was killed"))
            return
        outcome, self.checksums = pickle.loads(packed)  # noqa: S301  our own process wrote it
        self.results.put(outcome)


def _unnamed_file() -> IO[bytes]:
    """Shared by a process and its fork; in memory where the system has that, because the disk may be full."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("checkpoint results"), "w+b")
    return tempfile.TemporaryFile()


def write_files(transforms: list[Any], outbox: IO[bytes], parent: int, rank: int, buckets: list[Any], _: Any) -> None:
    """The whole life of the writer process: write and force to the disk this rank's files, then say how it went.

    Args:
        buckets: Megatron's plan, of each file its path, name and contents.
    """
    _live_for(parent)
    try:
        with ThreadPoolExecutor(len(buckets)) as threads:
            written = list(threads.map(partial(_write_file, transforms), range(len(buckets)), buckets))
        answer: tuple[Any, dict[str, Checksum]] = (
            dict(enumerate(results for results, _ in written)),
            dict(checksum for _, checksum in written),
        )
    except Exception as error:  # noqa: BLE001  whatever it is, the rank reports it
        answer = RuntimeError(str(error)), {}
    pickle.dump(answer, outbox)
    outbox.flush()


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Around the fork: a signal to all processes must not meet the writer before it has its own handlers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _live_for(parent: int) -> None:
    """Signals are the rank's business: it waits for this process. Only when it is gone there is nobody to write for."""

    def stop_if_alone(*_: object) -> None:
        if os.getppid() != parent:
            os._exit(1)

    for number in SIGNALS:
        signal.signal(number, stop_if_alone)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    process.die_with_parent(parent)
    gc.disable()  # what it would collect belongs to the parent, CUDA memory for one
    torch.set_num_threads(1)  # OpenMP's threads did not survive the fork


def _write_file(transforms: list[Any], index: int, bucket: Any) -> tuple[Any, tuple[str, Checksum]]:
    """Write one file by Megatron's function; returns its results and the file's checksum."""
    path, name, _ = bucket
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()
    still_to_write: queue.Queue[int] = queue.Queue()
    still_to_write.put(index)
    FileSystemWriterAsync.write_preloaded_data(transforms, index, bucket, results, still_to_write, use_fsync=True)
    _, outcome = results.get()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome, (name, checksums.of_file(Path(path)))
