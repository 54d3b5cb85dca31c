"""The metrics file and TensorBoard across a resume."""

import math
from importlib.util import find_spec
from pathlib import Path

import pytest

from megatron_octo import jsonl
from megatron_octo.rl.journal import Journal


def test_rows_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 0}\n{"step": 1}\n{"step": 2}\n{"st')
    journal = Journal(file, resumed_from=1)
    journal.append({"step": 2, "reward": 1.0})
    assert list(jsonl.read(file)) == [{"step": 0}, {"step": 1}, {"step": 2, "reward": 1.0}]
    assert journal.rows == list(jsonl.read(file))


def test_a_new_run_starts_a_new_file(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 0}\n')
    assert Journal(file, resumed_from=None).rows == []
    assert list(jsonl.read(file)) == []


def test_a_row_is_on_the_disk_at_once_and_json(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    Journal(file, resumed_from=None).append({"step": 1, "kl": math.nan, "entropy": math.inf, "boxed": None})
    assert file.read_text() == '{"step": 1, "kl": null, "entropy": null, "boxed": null}\n'


@pytest.mark.skipif(find_spec("tensorboard") is None or find_spec("torch") is None, reason="no TensorBoard")
def test_a_step_made_again_is_drawn_once(tmp_path: Path) -> None:
    events = tmp_path / "logs" / "tensorboard"
    killed = Journal(tmp_path / "metrics.jsonl", resumed_from=None, tensorboard=events)
    for step in (0, 1, 2, 3):
        killed.append({"step": step, "reward": 1.0 * step, "kl": None})
    # Not closed: a kill does not.
    assert curves(events) == {"reward": [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0)]}
    resumed = Journal(tmp_path / "metrics.jsonl", resumed_from=1, tensorboard=events)
    resumed.append({"step": 2, "reward": 0.5})
    resumed.append({"step": 2, "eval/math500/accuracy": 0.25})
    resumed.close()
    killed.close()
    assert curves(events) == {"reward": [(0, 0.0), (1, 1.0), (2, 0.5)], "eval/math500/accuracy": [(2, 0.25)]}


def curves(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: points (step, value) by curve."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(directory), size_guidance={"scalars": 0}).Reload()
    return {tag: [(point.step, point.value) for point in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
