"""The numbers of a run in the JSONL, in TensorBoard and in Weights & Biases (the real package, offline)."""

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("tensorboard") is None:
    pytest.skip("TensorBoard is not installed", allow_module_level=True)

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megatron_octo.errors import ResourceError
from megatron_octo.training.tracking import Row, Rows, Tracker, forget_rows_after


def tracker(out: Path, *, resume_step: int = 0, wandb_project: str | None = None) -> Tracker:
    return Tracker(
        out, name="stable", resume_step=resume_step, total_tokens=600, done_tokens=64 * resume_step,
        wandb_project=wandb_project, config={"seed": 1},
    )  # fmt: skip


def row(step: int, **numbers: float) -> Row:
    return {"step": step, "tokens": 64 * step, "loss": 4.0 - step, "loss/code": 3.5 - step, **numbers}


def steps(out: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def curves(out: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: points (step, value) by curve."""
    found = EventAccumulator(str(out / "logs" / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {tag: [(point.step, point.value) for point in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_every_step_is_one_row(tmp_path: Path) -> None:
    with tracker(tmp_path) as tracked:
        for step in (1, 2):
            tracked.log(row(step))
            assert steps(tmp_path)[-1] == step, "on the disk at once"
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert first == {"step": 1, "tokens": 64, "loss": 3.0, "loss/code": 2.5}


def test_tensorboard_shows_every_number_over_the_step(tmp_path: Path) -> None:
    with tracker(tmp_path) as tracked:
        tracked.log(row(1))
        tracked.log(row(2, grad_norm=0.5))
    assert curves(tmp_path) == {
        "tokens": [(1, 64), (2, 128)], "loss": [(1, 3.0), (2, 2.0)], "loss/code": [(1, 2.5), (2, 1.5)], "grad_norm": [(2, 0.5)],
    }  # fmt: skip


def test_steps_made_again_after_a_kill_appear_once(tmp_path: Path) -> None:
    for resume_step, last in ((0, 5), (3, 4), (3, 7)):  # killed after step 5 and after step 4, checkpoint at 3
        with tracker(tmp_path, resume_step=resume_step) as tracked:
            for step in range(resume_step + 1, last + 1):
                tracked.log(row(step))
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6, 7]
    assert [step for step, _ in curves(tmp_path)["loss"]] == [1, 2, 3, 4, 5, 6, 7]


def test_a_torn_last_line_is_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    forget_rows_after(file, 9)
    assert steps(tmp_path) == [1, 2]


def test_nothing_to_forget(tmp_path: Path) -> None:
    forget_rows_after(tmp_path / "metrics.jsonl", 9)
    assert list(tmp_path.iterdir()) == []


def test_a_validation_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tracker(tmp_path, resume_step=1_999) as tracked:
        tracked.log(row(2_000))
        assert "validation" not in capsys.readouterr().err
        tracked.log(row(2_001, **{"validation/loss": 2.34567}))
    assert "stable: step 2,001: validation loss 2.3457\n" in capsys.readouterr().err


def test_rows_that_a_full_disk_does_not_take_are_written_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "metrics.jsonl"
    disk.symlink_to("/dev/full")
    rows = Rows(disk)
    rows.add("one")
    rows.add("two")
    # Said once.
    assert capsys.readouterr().err == (
        f"warning: {disk} could not be written (No space left on device); its rows are kept and written when it can be\n"
    )
    there_is_room_again(rows, tmp_path / "room")
    rows.add("three")
    rows.add("four")
    rows.close()
    assert (tmp_path / "room").read_text() == "one\ntwo\nthree\nfour\n"
    assert capsys.readouterr().err == ""


def there_is_room_again(rows: Rows, file: Path) -> None:
    """Let the open descriptor write to another file, as if somebody had made room on its disk."""
    other = os.open(file, os.O_WRONLY | os.O_CREAT)
    os.dup2(other, rows._descriptor)
    os.close(other)


def test_half_a_row_that_a_disk_took_is_ended_by_its_other_half(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    taken = fill(writing)
    os.read(reading, 4096)  # room for one page
    rows = Rows(tmp_path / "rows")
    os.dup2(writing, rows._descriptor)
    rows.add("a" * 5000)
    received = os.read(reading, taken)
    rows.add("b")
    received += os.read(reading, taken)
    rows.close()
    os.close(reading)
    os.close(writing)
    assert received.lstrip(b".") == b"a" * 5000 + b"\nb\n"


def fill(pipe: int) -> int:
    """Write dots until it takes no more; how many."""
    written = 0
    try:
        while True:
            written += os.write(pipe, b"." * 4096)
    except BlockingIOError:
        return written


def test_a_full_disk_stops_no_tracking(tmp_path: Path) -> None:
    with tracker(tmp_path) as tracked:
        full = os.open("/dev/full", os.O_WRONLY)
        for descriptor in (tracked._rows._descriptor, tracked._events._records._writer.fileno()):
            os.dup2(full, descriptor)
        os.close(full)
        for step in (1, 2):
            tracked.log(row(step))
    assert steps(tmp_path) == []


def test_a_row_costs_less_than_a_millisecond(tmp_path: Path) -> None:
    numbers = {f"loss/corpus{index}": 2.0 for index in range(20)}
    with tracker(tmp_path) as tracked:
        started = time.process_time()
        for step in range(1, 201):
            tracked.log(row(step, **numbers))
        assert (time.process_time() - started) / 200 < 1e-3


def test_tensorflow_is_not_looked_for(tmp_path: Path) -> None:
    """TensorBoard's own file writer imports TensorFlow where it is installed: seconds, and pages of warnings."""
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('imported')\n")
    code = (
        "from pathlib import Path\n"
        "from megatron_octo.training.tracking import EventFile\n"
        "events = EventFile(Path('events'), first_step=1)\n"
        "events.add({'step': 1, 'loss': 2.0})\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, check=True
    )


def test_missing_weights_and_biases_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ResourceError, match=r"pip install megatron-octo\[wandb\]"):
        tracker(tmp_path, wandb_project="octo")


@pytest.mark.slow
def test_a_restart_continues_the_same_wandb_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="Weights & Biases is not installed: pip install megatron-octo[wandb]")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for resume_step in (0, 2):
        with tracker(tmp_path, resume_step=resume_step, wandb_project="octo") as tracked:
            for step in range(resume_step + 1, resume_step + 4):
                tracked.log(row(step))
    first, second = sorted((tmp_path / "logs" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert first.name == second.name == f"run-{(tmp_path / 'logs' / 'wandb_id').read_text().strip()}.wandb"
    assert logged(first) == [(1, 3.0, 2.5), (2, 2.0, 1.5), (3, 1.0, 0.5)]
    assert logged(second) == [(3, 1.0, 0.5), (4, 0.0, -0.5), (5, -1.0, -1.5)]


def logged(file: Path) -> list[tuple[int, float, float]]:
    """Step, loss and loss/code of every row in an offline run's file, by the package's own reader."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    store, rows = DataStore(), []
    store.open_for_scan(str(file))
    while data := store.scan_data():
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            rows.append(_row(record.history.item))
    return rows


def _row(items: Any) -> tuple[int, float, float]:
    found = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
    return found["step"], found["loss"], found["loss/code"]
