"""What a run says beside its metrics, and that none of it can stop the run."""

import io
import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from small_phase import stable
from written_shards import stream

from megatron_octo.errors import ConfigError, TrainingError
from megatron_octo.training import state
from megatron_octo.training.blend import blend
from megatron_octo.training.checkpoint import Progress
from megatron_octo.training.config import Anomalies, MidTraining
from megatron_octo.training.data import SampleOrder
from megatron_octo.training.journal import Journal, say
from megatron_octo.training.saving import Saved, SaveFailedError
from megatron_octo.training.state import Reason

SAVED = Saved(step=2, stall_seconds=0.25, total_seconds=1.5, bytes=1000)


def journal(out: Path, *, step: int = 2, skipped_steps: int = 0, speaks: bool = True) -> Journal:
    """Of a run after so many steps."""
    (out / "logs").mkdir(exist_ok=True)
    progress = Progress(step=step, tokens=8 * step, total_tokens=100 + 8 * step, skipped_steps=skipped_steps)
    return Journal(out, progress, speaks=speaks)


def where(out: Path) -> tuple[Reason, int, str | None, str | None]:
    found = state.read(out)
    assert found is not None
    return found.reason, found.step, found.checkpoint, found.detail


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TrainingError("too many"), Reason.ANOMALIES),
        (SaveFailedError("disk full"), Reason.SAVE_FAILED),
        (KeyboardInterrupt("again"), Reason.SIGNAL),
        (ConfigError("a mistake"), Reason.ERROR),
        (ZeroDivisionError("a defect"), Reason.ERROR),
    ],
)
def test_what_ended_a_run_is_its_reason(tmp_path: Path, error: BaseException, reason: Reason) -> None:
    with pytest.raises(type(error)), journal(tmp_path):
        raise error
    assert where(tmp_path) == (reason, 2, None, f"{type(error).__name__}: {error}")


def test_a_run_that_has_begun_runs(tmp_path: Path) -> None:
    with journal(tmp_path):
        assert where(tmp_path) == (Reason.RUNNING, 2, None, None)


def test_a_checkpoint_is_said_and_its_times_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with journal(tmp_path) as kept:
        kept.saved(SAVED)
    assert capsys.readouterr().err == "saved iter_0000002 in 1.5s (training stood still for 0.25s)\n"
    assert json.loads((tmp_path / "logs" / "checkpoints.jsonl").read_text()) == {
        "step": 2, "stall_seconds": 0.25, "total_seconds": 1.5, "bytes": 1000,
    }  # fmt: skip
    assert where(tmp_path) == (Reason.RUNNING, 2, "iter_0000002", None)


def test_ranks_beside_rank_zero_write_and_say_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with journal(tmp_path, speaks=False) as kept:
        kept.saved(SAVED)
        kept.not_saved("disk full")
    assert list((tmp_path / "logs").iterdir()) == []
    assert capsys.readouterr().err == ""


def test_a_run_that_could_not_save_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with journal(tmp_path) as kept:
        kept.saved(SAVED)
        capsys.readouterr()
        kept.not_saved("disk full")
    assert where(tmp_path) == (Reason.RUNNING, 2, "iter_0000002", "disk full")
    assert capsys.readouterr().err == "warning: disk full\n"


def test_times_that_cannot_be_written_stop_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with journal(tmp_path) as kept:
        (tmp_path / "logs" / "checkpoints.jsonl").symlink_to("/dev/full")
        kept.saved(SAVED)
    assert "could not be written (No space left on device)" in capsys.readouterr().err


def phase(max_skipped_steps: int = 3) -> MidTraining:
    """Two sequences per step; the losses of its third step are those of samples 4 and 5."""
    return MidTraining(
        name="p", model=stable().model, init_from=None, tokenizer="none", blend=blend(web=1.0), train_tokens=64, seq_length=4,
        global_batch_size=2, micro_batch_size=1, schedule=stable().schedule, save_interval_tokens=8,
        anomalies=Anomalies(max_skipped_steps=max_skipped_steps),
    )  # fmt: skip


def order(directory: Path) -> SampleOrder:
    return SampleOrder(blend=blend(web=1.0), streams=[stream(directory, [41])], seed=1, phase="p")


def test_the_documents_of_a_step_left_out_are_written_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = order(tmp_path)
    fine, bad = samples.documents(np.array([4, 5]))
    with journal(tmp_path, skipped_steps=1) as kept:
        kept.skipped(phase(), samples, "the loss is nan", [2.0, math.nan])
    file = tmp_path / "logs" / "skipped" / "step_0000003.txt"
    assert file.read_text() == f"loss 2\t{fine}\nloss nan\t{bad}\n"
    assert capsys.readouterr().err == (
        f"warning: step 3 was left out: the loss is nan; look first at\n  {bad}\nits documents: {file}\n"
    )


def test_documents_that_cannot_be_written_stop_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with journal(tmp_path, skipped_steps=1) as kept:
        (tmp_path / "logs" / "skipped").write_text("a file in the way")
        kept.skipped(phase(), order(tmp_path), "the loss is nan", [2.0, math.nan])
    said = capsys.readouterr().err
    assert f"warning: {tmp_path}/logs/skipped could not be written (File exists)" in said
    assert "step 3 was left out" in said


@pytest.mark.parametrize("speaks", [True, False])
def test_too_many_steps_left_out_end_every_rank(tmp_path: Path, speaks: bool) -> None:
    kept = journal(tmp_path, skipped_steps=4, speaks=speaks)
    with pytest.raises(
        TrainingError, match=r"this phase skipped 4 steps, anomalies.max_skipped_steps allows 3; raise it"
    ):
        kept.skipped(phase(max_skipped_steps=3), order(tmp_path), "the loss is nan", [2.0, math.nan])
    kept.skipped(phase(max_skipped_steps=4), order(tmp_path / "logs"), "the loss is nan", [2.0, math.nan])


def test_a_run_goes_on_when_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with io.TextIOWrapper(
        io.FileIO(writing, "w"), write_through=True
    ) as pipe:  # raw, so that nothing waits in a buffer
        with pytest.raises(BrokenPipeError):
            print("to nobody", file=pipe, flush=True)
        monkeypatch.setattr(sys, "stderr", pipe)
        say("to nobody")
        monkeypatch.undo()
