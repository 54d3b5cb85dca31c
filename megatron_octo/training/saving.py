"""Saving while training goes on: the state is frozen, processes write it, and a later step finds it complete or failed.

What happens on rank 0 alone (a directory, the small files, the names) can fail there alone, and the others would wait in the
next collective; so its outcome is told to all before anything else.
"""

import contextlib
import gc
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.state_dict_utils import save_preprocess
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue
from megatron.core.dist_checkpointing.strategies.fully_parallel import FullyParallelSaveStrategyWrapper
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from megatron.core.optimizer import MegatronOptimizer
from torch.distributed.checkpoint.api import CheckpointException

from megatron_octo import artifacts, units
from megatron_octo.errors import ResourceError
from megatron_octo.training import checkpoint, megatron, publishing
from megatron_octo.training.checkpoint import Progress
from megatron_octo.training.megatron_versions import ASYNC_SAVE, save_common
from megatron_octo.training.publishing import checkpoint_name
from megatron_octo.training.writer import FILES_PER_RANK, Inbox, signals_held

#: So many failed saves one after the other end a run: it would go on with nothing to continue from.
MAX_FAILURES = 3
#: Name and version of the format in `metadata.json`.
FORMAT = ("torch_dist", 1)

T = TypeVar("T")


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is complete and on the disk."""

    step: int
    #: How long training stood still for it.
    stall_seconds: float
    #: From its step until it was complete.
    total_seconds: float
    bytes: int


@dataclass
class _UnderWay:
    step: int
    began: float
    stall_seconds: float = 0.0
    #: None until rank 0 made it.
    partial: Path | None = None
    inbox: Inbox | None = None


class SaveFailedError(ResourceError):
    """The last checkpoint, or three in a row, could not be written."""


class _NotWrittenError(Exception):
    """Rank 0 could not write; raised on every rank with the same words."""


class Saver:
    """Writes the checkpoints of one run, one at a time. Every method is called on every rank at the same step."""

    def __init__(
        self,
        stage_directory: Path,
        *,
        model: megatron.Model,
        optimizer: MegatronOptimizer,
        keep: int,
        keep_every: int | None,
        asynchronous: bool,
        on_saved: Callable[[Saved], None],
        on_failure: Callable[[str], None],
    ) -> None:
        """Removes what killed runs left half-written.

        Args:
            keep: checkpoints kept, the newest first; and for good those whose step is a multiple of `keep_every`.
            asynchronous: go on training while the checkpoint is written.
            on_saved: called on every rank when a checkpoint is complete.
            on_failure: called on every rank with what failed when training goes on all the same.
        """
        self.checkpoints = stage_directory / "checkpoints"
        self.model, self.optimizer = model, optimizer
        self.keep, self.keep_every = keep, keep_every
        self.asynchronous = asynchronous
        self.on_saved, self.on_failure = on_saved, on_failure
        self.queue = AsyncCallsQueue(persistent=False)
        self.under_way: _UnderWay | None = None
        self.last_failure: str | None = None
        self.failures_in_a_row = 0
        if megatron.is_rank_zero():
            publishing.remove_leftovers(self.checkpoints)
        # Megatron collects garbage at every save and would look through all that importing made, 0.25 s; and a forked writer would
        # copy the memory of what is looked at.
        gc.freeze()

    def start(self, progress: Progress) -> None:
        """Freeze the state now and write it in the background, after an earlier save is complete.

        Nothing to do when `latest` names this step already. Raises `SaveFailedError` as `poll` does.
        """
        self._complete(blocking=True)
        began = time.perf_counter()
        if _from_rank_zero(lambda: publishing.named_latest(self.checkpoints)) == checkpoint_name(progress.step):
            return
        self.under_way = _UnderWay(step=progress.step, began=began)
        try:
            self._schedule(self.under_way, progress)
        except _NotWrittenError as error:
            self._fail(error)
            return
        self.under_way.stall_seconds = time.perf_counter() - began
        if not self.asynchronous:
            self._complete(blocking=True)

    def poll(self) -> None:
        """Complete the save under way if every rank's writer is done. Raises `SaveFailedError` at the third failure in a row."""
        self._complete(blocking=False)

    def finish(self) -> None:
        """Wait for the save under way, the run's last. Raises `SaveFailedError` when the last one failed."""
        self._complete(blocking=True, last=True)
        if self.last_failure is not None:
            raise SaveFailedError(f"{self.last_failure}; run the same command again when it can be written")

    def _schedule(self, save: _UnderWay, progress: Progress) -> None:
        """What `dist_checkpointing.save` does, except that rank 0's own file may fail without the others waiting for it."""
        save.partial = _from_rank_zero(lambda: publishing.make_partial(self.checkpoints, save.step))
        state = checkpoint.state_dict(self.model, self.optimizer, is_loading=False)
        state["progress"] = asdict(progress)
        state["content_metadata"] = checkpoint.content_metadata(self.optimizer)
        sharded, common = save_preprocess(state)
        _from_rank_zero(lambda: _save_common(common, save.partial))
        save.inbox = Inbox()
        strategy = FullyParallelSaveStrategyWrapper(
            TorchDistSaveShardedStrategy(*FORMAT, thread_count=FILES_PER_RANK), megatron.data_parallel_group()
        )
        request = strategy.async_save(sharded, save.partial, **ASYNC_SAVE)
        request = request._replace(finalize_fns=[partial(_finalize, function) for function in request.finalize_fns])
        with signals_held():
            self.queue.schedule_async_request(save.inbox.route(request))

    def _complete(self, *, blocking: bool, last: bool = False) -> None:
        if self.under_way is None:
            return
        began = time.perf_counter()
        try:
            if not self.queue.maybe_finalize_async_calls(blocking=blocking):
                return
            total_bytes = self._publish(self.under_way)
        except (_NotWrittenError, CheckpointException) as error:
            self._fail(error, last=last)
            return
        now = time.perf_counter()
        saved = Saved(
            step=self.under_way.step,
            stall_seconds=self.under_way.stall_seconds + now - began,
            total_seconds=now - self.under_way.began,
            bytes=total_bytes,
        )
        self.under_way, self.last_failure, self.failures_in_a_row = None, None, 0
        self.on_saved(saved)

    def _publish(self, save: _UnderWay) -> int:
        assert save.partial is not None
        assert save.inbox is not None
        partial_directory = save.partial
        known = {name: checksum for part in megatron.gather(save.inbox.checksums) for name, checksum in part.items()}

        def publish() -> int:
            save_config(CheckpointingConfig(*FORMAT), str(partial_directory))
            total_bytes = publishing.publish(partial_directory, save.step, known)
            # It is saved all the same; the next save tries again to remove the old ones.
            with contextlib.suppress(OSError):
                publishing.prune(self.checkpoints, keep=self.keep, keep_every=self.keep_every)
            return total_bytes

        return _from_rank_zero(publish)

    def _fail(self, error: BaseException, *, last: bool = False) -> None:
        save = self.under_way
        assert save is not None
        self.under_way = None
        self.failures_in_a_row += 1
        # Only rank 0 was told which ranks failed and how.
        self.last_failure = _from_rank_zero(lambda: self._clean_up(save, error))
        if self.failures_in_a_row >= MAX_FAILURES:
            raise SaveFailedError(f"{self.last_failure}; {MAX_FAILURES} saves in a row failed, so training stops")
        if not last:
            self.on_failure(f"{self.last_failure}; training goes on and saves again later")

    def _clean_up(self, save: _UnderWay, error: BaseException) -> str:
        if save.partial is not None:
            shutil.rmtree(save.partial, ignore_errors=True)
        return describe_failure(self.checkpoints, step=save.step, error=error)


def describe_failure(checkpoints: Path, *, step: int, error: BaseException) -> str:
    """What failed where, and what there is to continue from."""
    free = units.bytes_(artifacts.free_bytes(checkpoints))
    newest = publishing.named_latest(checkpoints)
    left = f"the newest valid checkpoint is {newest}" if newest is not None else "there is no checkpoint yet"
    return f"the checkpoint of step {step:,} could not be written to {checkpoints} ({_reason(error)}; {free} free there); {left}"


def _reason(error: BaseException) -> str:
    if not isinstance(error, CheckpointException):
        return f"rank 0: {error}"
    return "; ".join(f"rank {rank}: {_spelled(failure)}" for rank, (failure, _) in sorted(error.failures.items()))


def _spelled(failure: BaseException) -> str:
    """torch's writer of zip files finds itself at another place of a file than it wrote up to, and does not say why."""
    if "unexpected pos" in str(failure):
        return "a file was not written to its end: No space left on device, or a quota"
    return str(failure)


def _finalize(megatrons: Callable[[], None]) -> None:
    """Megatron's finalisation, in which rank 0 alone writes `.metadata` while the others wait for its verdict in a broadcast."""
    try:
        megatrons()
    except OSError as error:
        torch.distributed.broadcast(torch.tensor([1], dtype=torch.int, device=megatron.device()), src=0)
        raise _NotWrittenError(str(error)) from error


def _save_common(common: dict[str, Any], directory: Path | None) -> None:
    """Write `common.pt`. Raises `OSError`, where torch has a `RuntimeError` that tells of positions in its zip file."""
    try:
        save_common(common, str(directory))
    except RuntimeError as error:
        raise OSError("file write failed: common.pt") from error


def _from_rank_zero(work: Callable[[], T]) -> T:
    """What `work` answers on rank 0, on every rank. Raises `_NotWrittenError` on all of them when the disk refuses."""
    answer: list[Any] = [None]
    if megatron.is_rank_zero():
        try:
            answer = [work()]
        except OSError as error:
            answer = [_NotWrittenError(str(error))]
    torch.distributed.broadcast_object_list(answer, src=0)
    if isinstance(answer[0], _NotWrittenError):
        raise answer[0]
    result: T = answer[0]
    return result
