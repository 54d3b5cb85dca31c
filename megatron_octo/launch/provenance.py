"""Where a run comes from, in files beside it: enough to say next year what was run, and on what.

    LOGS/config.json          the resolved config (written by whoever starts the stage)
    LOGS/run.json             command, commit, image, what the stage reads from; LOGS/*.diff the changes since the commit
    LOGS/job.sbatch           on a cluster, the batch script
    ENVIRONMENT               hosts, Python, every package, GPUs and their driver: LOGS/environment.json on this machine; on a cluster
                              each session's own, LOGS/session-<n>/environment.json, written by the job
    STUDY/../runs.jsonl       a line per submission

No environment variable is ever written down but the nodes' names, and no word that looks like a secret (source_state.py).
Usage, in a job: `python -m megatron_octo.launch.provenance FOLDER`.
"""

import importlib.metadata
import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from megatron_octo import artifacts, jsonl, units
from megatron_octo.launch import source_state
from megatron_octo.launch.jobs import Job
from megatron_octo.launch.place import Place
from megatron_octo.launch.slurm import ledger
from megatron_octo.launch.source_state import SourceState

RUN = "run.json"
ENVIRONMENT = "environment.json"
PACKAGE = Path(__file__).parents[1]
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def record(jobs: Sequence[Job], place: Place | None, *, command: str) -> None:
    """Write down where jobs that are about to start come from.

    Args:
        place: where they will run; None is this machine, whose packages are written down too.
        command: what the user typed.
    """
    write = recorder(jobs, place, command=command)
    for job in jobs:
        write(job)


def recorder(jobs: Sequence[Job], place: Place | None, *, command: str) -> Callable[[Job], None]:
    """`record` one by one, for a launcher that learns on the way which of the jobs it starts; what they share is read once."""
    sources = _sources(Path.cwd())
    outs = {job.name: str(job.out.absolute()) for job in jobs}
    machine = environment() if place is None else None

    def write(job: Job) -> None:
        job.logs.mkdir(parents=True, exist_ok=True)
        for name, state in sources.items():
            _write_diff(job.logs / f"{name}.diff", state)
        artifacts.write_json(job.logs / RUN, _run(job, place, outs, sources, command))
        if machine is not None:
            artifacts.write_json(job.logs / ENVIRONMENT, machine)

    return write


def note(study: Path, jobs: Sequence[Job], *, command: str) -> None:
    """A line in runs.jsonl for a study that runs on this machine; the ledger writes those of a cluster."""
    row = {
        "submitted_at": units.utc(time.time()),
        "study": str(study.absolute()),
        "command": source_state.redact(command),
        "git_commit": artifacts.git_commit(),
        "jobs": {job.name: None for job in jobs},
    }
    jsonl.append(study.absolute().parent / ledger.RUNS, [row])


def environment() -> dict[str, Any]:
    """What this process runs on: host, interpreter, every package, GPUs."""
    found = ((each.metadata["Name"], each.version) for each in importlib.metadata.distributions())
    return {
        "host": socket.gethostname(),
        "hosts": os.environ.get("SLURM_JOB_NODELIST"),
        "job": os.environ.get("SLURM_JOB_ID"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "gpus": _gpus(),
        "packages": dict(sorted((name, version) for name, version in found if name)),
    }


def image_digest(image: str) -> str | None:
    """`sha256:...` where the image's name carries it; a tag may be another image tomorrow."""
    found = _DIGEST.search(image)
    return found[0] if found else None


def _run(
    job: Job, place: Place | None, outs: dict[str, str], sources: dict[str, SourceState], command: str
) -> dict[str, Any]:
    container = place.container_of(job.module) if place is not None else None
    return {
        "stage": job.name,
        "recorded_at": units.utc(time.time()),
        "command": source_state.redact(command),
        "directory": str(Path.cwd()),
        "out": str(job.out.absolute()),
        "needs": {need: outs[need] for need in job.needs if need in outs},
        "module": job.module,
        "python": sys.executable if place is None else place.python_of(job.module),
        "place": "local" if place is None else place.kind.value,
        "image": container.image if container else None,
        "image_digest": image_digest(container.image) if container else None,
        "sources": {name: _state(name, state) for name, state in sources.items()},
    }


def _sources(directory: Path) -> dict[str, SourceState]:
    """Our code and the user's, which is where their recipes are; those that git knows, each work tree once."""
    ours = source_state.read(PACKAGE, tracked="__init__.py")
    users = source_state.read(directory)
    if users is not None and ours is not None and (users.commit, users.diff) == (ours.commit, ours.diff):
        users = None
    return {name: state for name, state in (("megatron-octo", ours), ("directory", users)) if state is not None}


def _state(name: str, state: SourceState) -> dict[str, Any]:
    diff = f"{name}.diff" if state.diff else None
    return {"git_commit": state.commit, "diff": diff, "untracked": list(state.untracked)}


def _write_diff(file: Path, state: SourceState) -> None:
    if state.diff:
        file.write_text(state.diff, encoding="utf-8")
    else:
        file.unlink(missing_ok=True)  # an earlier submission's


def _gpus() -> list[str]:
    """Model and driver of each; none where there is no nvidia-smi."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return answer.stdout.splitlines() if answer.returncode == 0 else []


if __name__ == "__main__":
    artifacts.write_json(Path(sys.argv[1]) / ENVIRONMENT, environment())
