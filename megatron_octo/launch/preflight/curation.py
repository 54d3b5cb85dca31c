"""Before a curation begins: would a later step fail, after hours and paid answers? One line per check, each with what to do.

What is read, asked and imported is looked at by `curation/preflight.py`, a process of the environment that the steps will run in: here,
or on a login node. Finished steps are not asked for anything any more.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from megatron_octo import artifacts, config
from megatron_octo.curation.config import Curation
from megatron_octo.errors import ArtifactError
from megatron_octo.launch.jobs import Job
from megatron_octo.launch.place import Kind, Place
from megatron_octo.launch.preflight.checklist import Check, unknown
from megatron_octo.launch.slurm import ssh

MODULE = "megatron_octo.curation.preflight"
#: By then questions are fetched from the hub, or a file system or connection hangs (guess).
ANSWER_SECONDS = 1800.0


def examine(curation: Curation, jobs: Sequence[Job], out: Path, place: Place | None) -> list[Check]:
    """The checks of all steps that are not done; none where all are.

    Args:
        place: None is this machine. Of a cluster what its login node can tell; pods of SkyPilot's cannot be asked.
    """
    steps = [f"{job.name}={job.module}" for job in jobs if not _is_done(job)]
    if not steps or (place is not None and place.kind is not Kind.SLURM):
        return []
    words = [_python(place), "-m", MODULE, str(out.absolute()), *steps, *(["--elsewhere"] if place is not None else [])]
    command = ssh.command(place.ssh if place is not None else None, words)
    try:
        ended = subprocess.run(
            command, input=config.dumps(curation), capture_output=True, text=True, timeout=ANSWER_SECONDS
        )
    except FileNotFoundError as error:
        return [_not_asked(str(error))]
    except subprocess.TimeoutExpired:
        return [_not_asked(f"no answer within {ANSWER_SECONDS:.0f} s")]
    if ended.returncode != 0:
        return [_not_asked((ended.stderr.strip().splitlines() or ["no answer"])[-1])]
    try:
        return [config.from_dict(Check, found) for found in json.loads(ended.stdout.splitlines()[-1])]
    except (IndexError, ValueError):  # another version's, or what a login shell says besides
        return [_not_asked("its answer is no list of checks")]


def _is_done(job: Job) -> bool:
    with contextlib.suppress(
        ArtifactError
    ):  # another config, an unreadable mark: the launcher says so, or makes it anew (`--force`)
        return artifacts.is_finished(job.out, config=job.config)
    return False


def _python(place: Place | None) -> str:
    """That of the steps; where they run in an image, this one: the image is not on a login node."""
    first = "megatron_octo.curation.raw.reading_run"
    if place is None or (place.ssh is None and place.container_of(first) is not None):
        return sys.executable
    return place.python_of(first)


def _not_asked(said: str) -> Check:
    remedy = "look yourself at servers, benchmarks, inputs and disk; a login node can tell where this package is installed on it"
    return unknown("preflight", said, remedy)
