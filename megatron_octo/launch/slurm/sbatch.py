"""Submits the written files with plain sbatch, here or on a login node."""

from collections.abc import Sequence
from pathlib import Path

from megatron_octo.errors import ResourceError
from megatron_octo.launch.place import SSH, Place
from megatron_octo.launch.slurm import queue, ssh
from megatron_octo.launch.slurm.submitting import Submission, dependency


def submit(submissions: Sequence[Submission], place: Place, *, study: Path) -> dict[str, str]:
    """Slurm's job ids by the submission's name. Raises `ResourceError` where Slurm refuses one; those before it are cancelled."""
    ids: dict[str, str] = {}
    try:
        for one in submissions:
            arguments = [*dependency(one, ids), str(one.batch.script), *one.arguments]
            ids[one.name] = call(arguments, name=one.name, login=place.ssh)
    except ResourceError as error:
        queue.cancel(list(ids.values()), login=place.ssh)
        raise ResourceError(f"{error}; nothing of this study is left in the queue") from error
    return ids


def call(arguments: Sequence[str], *, name: str, login: SSH | None) -> str:
    """One call of sbatch; returns the job's id. Raises `ResourceError` in Slurm's words."""
    answer = ssh.run(login, ["sbatch", "--parsable", *arguments])
    if answer.returncode != 0:
        raise ResourceError(f"sbatch refuses {name}: {answer.stderr.strip()}")
    return answer.stdout.strip().partition(";")[0]  # ID;CLUSTER where there are several
