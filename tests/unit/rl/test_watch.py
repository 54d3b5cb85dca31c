"""Alarms are said once, to people and to a file."""

import json
from pathlib import Path

import pytest

from megatron_octo.rl.config import Alarms
from megatron_octo.rl.watch import AlarmWatch


def rows(steps: int) -> list[dict]:
    """Every response is cut from step 20 on."""
    return [{"step": step, "reward": 0.0, "truncated": float(step > 20)} for step in range(1, steps + 1)]


def test_an_alarm_is_said_once_also_after_a_restart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "alarms.jsonl"
    limits = Alarms(window_steps=5)
    watch = AlarmWatch("run", limits, file)
    watch.look(rows(10), saved=[10])
    assert not file.exists()
    watch.look(rows(30), saved=[10, 20])
    AlarmWatch("run", limits, file).look(rows(40), saved=[10, 20, 30])
    (row,) = map(json.loads, file.read_text().splitlines())
    assert (row["kind"], row["restart_from"]) == ("truncation", 10)
    assert capsys.readouterr().err.count("restart_from=10 goes back") == 1


def test_where_no_checkpoint_is_old_enough_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    AlarmWatch("run", Alarms(window_steps=5), tmp_path / "alarms.jsonl").look(rows(30), saved=[29])
    assert "no checkpoint from before it is left" in capsys.readouterr().err
