"""Alarms as they ring: a line for people, and a row in OUT/alarms.jsonl."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from megatron_octo.rl import alarms
from megatron_octo.rl.alarms import Alarm
from megatron_octo.rl.config import Alarms
from megatron_octo.rl.metrics import Row


class AlarmWatch:
    """Says each alarm of a run once, also across restarts."""

    def __init__(self, name: str, limits: Alarms, file: Path) -> None:
        self._name, self._limits, self._file = name, limits, file
        lines = file.read_text().splitlines() if file.exists() else []
        self._said = {(row["kind"], row["step"]) for row in map(json.loads, lines)}

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
        with self._file.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
