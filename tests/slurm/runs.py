"""What the tests here submit with, and read of what came of it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

#: Programs of an environment with NeMo-Run, which brings Ray along.
LAUNCH_BIN = Path(os.environ["OCTO_LAUNCH_ENV"], "bin").absolute() if "OCTO_LAUNCH_ENV" in os.environ else None
#: Nodes without GPUs, of two CPUs, where nothing is tried twice.
PLACE = {
    "kind": "slurm",
    "account": "lab",
    "gpus_per_node": 0,
    "cpus_per_node": 2,
    "time_limit": "10",
    "save_seconds": 20,
    "python": sys.executable,
    "retries": 0,
    "accounting": False,
}
#: `megatron-octo WORDS...`: see the fixture.
Octo = Callable[..., "subprocess.CompletedProcess[str]"]


def job_ids(said: str) -> list[str]:
    """Out of what a submission says: `stable: job 17`."""
    return [id_ for line in said.splitlines() if ": job " in line for id_ in line.partition(": job ")[2].split(", ")]


def rows(out: Path) -> list[dict[str, Any]]:
    """Metrics of a training run without what a clock says."""
    from tiny_training import CLOCK

    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCK} for line in lines]


def sessions(logs: Path) -> Sequence[dict[str, Any]]:
    return [json.loads(line) for line in (logs / "sessions.jsonl").read_text().splitlines()]
