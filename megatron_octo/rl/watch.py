"""Alarms as they ring: a line for people, and a row in OUT/alarms.jsonl."""

import sys
from collections.abc import Sequence
from pathlib import Path

from megatron_octo import jsonl
from megatron_octo.rl import alarms, lines
from megatron_octo.rl.alarms import Alarm
from megatron_octo.rl.config import Alarms
from megatron_octo.rl.metrics import Row


class AlarmWatch:
    """Says each alarm once, also across restarts; one of a step that a restart forgets may ring again."""

    def __init__(self, name: str, limits: Alarms, file: Path, *, resumed_from: int | None) -> None:
        """`resumed_from` is the step of the checkpoint continued from; None starts anew."""
        self._name, self._limits, self._file = name, limits, file
        self._said = {(row["kind"], row["step"]) for row in lines.forget_after(file, resumed_from)}

    def look(self, rows: Sequence[Row], *, saved: Sequence[int]) -> None:
        """`rows` of the run so far; `saved` are the steps whose checkpoints are there."""
        for alarm in alarms.check(rows, self._limits, saved=saved):
            if (alarm.kind.value, alarm.step) not in self._said:
                self._said.add((alarm.kind.value, alarm.step))
                self._say(alarm)

    def _say(self, alarm: Alarm) -> None:
        way = (
            "no checkpoint from before it is left (keep_checkpoints)"
            if alarm.restart_from is None
            else f"restart_from={alarm.restart_from} goes back to before it"
        )
        print(f"ALARM {self._name} step {alarm.step}: {alarm.kind}: {alarm.seen}; {way}", file=sys.stderr, flush=True)
        row = {"step": alarm.step, "kind": alarm.kind, "seen": alarm.seen, "restart_from": alarm.restart_from}
        jsonl.append(self._file, [row])
