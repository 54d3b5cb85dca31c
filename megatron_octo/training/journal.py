"""What a run says about itself beside its metrics: the state file, the times of its checkpoints, the steps it left out.

OUT/logs/state.json          where the run stands and why it stopped (state.py)
OUT/logs/checkpoints.jsonl   per checkpoint: how long training stood still for it, and when it was complete on the disk
OUT/logs/skipped/            the documents of every step that was left out
"""

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from megatron_octo.errors import TrainingError
from megatron_octo.training import anomalies, checkpoint, state
from megatron_octo.training.checkpoint import Progress
from megatron_octo.training.config import MidTraining
from megatron_octo.training.data import SampleOrder
from megatron_octo.training.publishing import checkpoint_name
from megatron_octo.training.saving import Saved, SaveFailedError
from megatron_octo.training.state import Reason

#: Why a run ended, by what ended it.
REASONS = {TrainingError: Reason.ANOMALIES, SaveFailedError: Reason.SAVE_FAILED, KeyboardInterrupt: Reason.SIGNAL}


class Journal:
    """Keeps `logs/state.json` and `logs/checkpoints.jsonl` up to date; rank 0's writes, the others' does nothing.

    An exception that passes through it is recorded as the reason of the end.
    """

    def __init__(self, out: Path, progress: Progress, *, speaks: bool) -> None:
        self.out, self.progress, self.speaks = out, progress, speaks
        newest = checkpoint.latest(out)
        self.checkpoint = newest.name if newest is not None else None

    def __enter__(self) -> "Journal":
        self.stands(Reason.RUNNING, None)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is not None:
            reason = next((reason for family, reason in REASONS.items() if isinstance(error, family)), Reason.ERROR)
            self.stands(reason, f"{type(error).__name__}: {error}")

    def stands(self, reason: Reason, detail: str | None) -> None:
        """Write down where the run stands now: at its start, after each save, at its end."""
        if self.speaks:
            state.write(
                self.out, reason=reason, step=self.progress.step, tokens=self.progress.tokens,
                total_tokens=self.progress.total_tokens, checkpoint=self.checkpoint, detail=detail,
            )  # fmt: skip

    def saved(self, saved: Saved) -> None:
        """A checkpoint is complete and on the disk."""
        self.checkpoint = checkpoint_name(saved.step)
        self.stands(Reason.RUNNING, None)
        if self.speaks:
            say(
                f"saved {self.checkpoint} in {saved.total_seconds:.1f}s (training stood still for {saved.stall_seconds:.2f}s)"
            )
            row = {
                "step": saved.step, "stall_seconds": saved.stall_seconds, "total_seconds": saved.total_seconds,
                "bytes": saved.bytes,
            }  # fmt: skip
            with _told(), (self.out / "logs" / "checkpoints.jsonl").open("a") as stream:
                stream.write(json.dumps(row) + "\n")

    def not_saved(self, message: str) -> None:
        """A checkpoint could not be written; training goes on."""
        self.stands(Reason.RUNNING, message)
        if self.speaks:
            say(f"warning: {message}")

    def skipped(self, recipe: MidTraining, order: SampleOrder, why: str, losses_G: Sequence[float]) -> None:
        """A step is left out: say why, write down its documents. Raises `TrainingError` when there were too many."""
        step, first = self.progress.step + 1, self.progress.step * recipe.global_batch_size
        file = self.out / "logs" / "skipped" / f"step_{step:07d}.txt"
        if self.speaks:
            documents = order.documents(np.arange(first, first + len(losses_G)))
            with _told():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(
                    "".join(f"loss {loss:.4g}\t{line}\n" for loss, line in zip(losses_G, documents, strict=True))
                )
        worst = order.documents(np.array([first + index for index in anomalies.suspects(losses_G)]))
        message = (
            f"step {step:,} was left out: {why}; look first at\n  " + "\n  ".join(worst) + f"\nits documents: {file}"
        )
        if self.progress.skipped_steps > recipe.anomalies.max_skipped_steps:
            raise TrainingError(
                f"{message}\nthis phase skipped {self.progress.skipped_steps} steps, anomalies.max_skipped_steps allows "
                f"{recipe.anomalies.max_skipped_steps}; raise it and start the run again, which continues from the newest checkpoint. "
                "Other shards make another run: branch from that checkpoint"
            )
        if self.speaks:
            say(f"warning: {message}")


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """A full disk is said; these files are no reason to stop, and the other ranks would wait for one that did."""
    try:
        yield
    except OSError as error:
        say(f"warning: {error.filename or 'a log'} could not be written ({error.strerror})")


def say(text: str) -> None:
    """Tell people; where nobody listens any more (the launcher was killed) the run goes on all the same."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
