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
    watch = AlarmWatch("run", limits, file, resumed_from=None)
    watch.look(rows(10), saved=[10])
    assert not file.exists()
    watch.look(rows(30), saved=[10, 20])
    AlarmWatch("run", limits, file, resumed_from=30).look(rows(40), saved=[10, 20, 30])
    (row,) = map(json.loads, file.read_text().splitlines())
    assert (row["kind"], row["restart_from"]) == ("truncation", 10)
    assert capsys.readouterr().err.count("restart_from=10 goes back") == 1


@pytest.mark.parametrize("resumed_from", [20, None])
def test_an_alarm_rings_again_where_a_restart_runs_into_the_same_trouble(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], resumed_from: int | None
) -> None:
    file = tmp_path / "alarms.jsonl"
    for resumed in (None, resumed_from):
        AlarmWatch("run", Alarms(window_steps=5), file, resumed_from=resumed).look(rows(30), saved=[10, 20])
    assert [row["step"] for row in map(json.loads, file.read_text().splitlines())] == [23]
    assert capsys.readouterr().err.count("ALARM run step 23: truncation") == 2


def test_a_line_cut_by_a_kill_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "alarms.jsonl"
    file.write_text('{"step": 3, "kind": "truncation", "seen": "", "restart_from": null}\n{"step": 5, "ki')
    AlarmWatch("run", Alarms(window_steps=5), file, resumed_from=9).look(rows(30), saved=[])
    assert [row["step"] for row in map(json.loads, file.read_text().splitlines())] == [3, 23]


def test_where_no_checkpoint_is_old_enough_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch = AlarmWatch("run", Alarms(window_steps=5), tmp_path / "alarms.jsonl", resumed_from=None)
    watch.look(rows(30), saved=[29])
    assert "no checkpoint from before it is left" in capsys.readouterr().err
