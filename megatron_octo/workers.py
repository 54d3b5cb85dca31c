"""Items of work over several processes of this machine. One failure, or one dead process, ends all with one message."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

from megatron_octo import process
from megatron_octo.errors import ResourceError
from megatron_octo.progress import Advance

Item = TypeVar("Item")
Result = TypeVar("Result")

POLL_SECONDS = 0.5

#: In a worker: what all workers together have done, in the unit of the progress bar.
_done: Any = None


def one_thread_each() -> None:
    """Workers, not threads, fill the cores: before a library is loaded, here and in the workers to come."""
    os.environ |= {"RAYON_NUM_THREADS": "1", "FASTOKENS_BPE_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def advance(amount: float) -> None:
    """Called by the work itself, in the worker."""
    if _done is not None:
        with _done.get_lock():
            _done.value += int(amount)


def each(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    num_workers: int,
    on_progress: Advance,
    begin: Callable[[], None] | None = None,
) -> list[Result]:
    """What `work` gives for every item, in their order.

    Args:
        items: their text names them, should a worker die on one.
        begin: called once in every worker, before its first item.
    Raises:
        ResourceError: a worker died. What an item raised is raised as it is.
    """
    context = multiprocessing.get_context("spawn")
    done = context.Value("q", 0)
    pool = ProcessPool(
        max_workers=min(num_workers, len(items)), context=context, initializer=_begin, initargs=(done, os.getpid(), begin)
    )  # fmt: skip
    try:
        futures = {pool.schedule(work, args=(item,)): item for item in items}
        waiting = set(futures)
        shown = 0
        while waiting:
            finished, waiting = wait(waiting, timeout=POLL_SECONDS, return_when=FIRST_EXCEPTION)
            for future in finished:
                _outcome(future, futures[future])
            now = done.value
            on_progress(now - shown)
            shown = now
        pool.close()
        return [future.result() for future in futures]
    except BaseException:
        pool.stop()
        raise
    finally:
        pool.join()


def _begin(done: Any, parent: int, begin: Callable[[], None] | None) -> None:
    """In every new worker."""
    global _done
    _done = done
    process.die_with_parent(parent)
    if begin is not None:
        begin()


def _outcome(future: Any, item: Any) -> None:
    try:
        future.result()
    except ProcessExpired as error:
        raise ResourceError(
            f"a worker process died ({_how(error.exitcode)}) while it worked on {item}; run the same command again, with fewer "
            "workers if memory is short"
        ) from error
    except BrokenProcessPool as error:
        raise ResourceError(f"worker processes die as soon as they start ({error}); what they say is above") from error


def _how(exit_code: int) -> str:
    """`-9 -> 'killed by SIGKILL, which the kernel sends when memory runs out'`."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    return f"killed by {name}" + (", which the kernel sends when memory runs out" if name == "SIGKILL" else "")
