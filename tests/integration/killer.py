"""A process beside each rank that kills it and all it started with SIGKILL at a chosen moment. Used as the prelude of a run."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from megatron_octo import process


def arm(moment: dict[str, Any]) -> None:
    """Kill this rank `delay` seconds after its run has written `rows` more metrics or started its `saves`th save.

    Every rank gets the same moment, so that they go within a millisecond or so.
    """
    parent = os.getpid()
    out = Path(moment["out"])
    already = _rows(out)
    seen = _partials(out)  # of earlier runs; this one will remove them
    if os.fork():
        return
    process.die_with_parent(parent)
    saves: set[str] = set()
    while _rows(out) - already < moment["rows"] or len(saves) < moment["saves"]:
        saves |= _partials(out) - seen
        time.sleep(0.001)
    time.sleep(moment["delay"])
    os.killpg(0, signal.SIGKILL)


def _rows(out: Path) -> int:
    metrics = out / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def _partials(out: Path) -> set[str]:
    return {path.name for path in (out / "checkpoints").glob(".iter_*.partial")}
