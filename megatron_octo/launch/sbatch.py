"""Submits the written files with plain sbatch, here or on a login node."""

from collections.abc import Sequence
from pathlib import Path

from megatron_octo.errors import ResourceError
from megatron_octo.launch import slurm, ssh
from megatron_octo.launch.place import Place
from megatron_octo.launch.submitting import Submission, dependency


def submit(submissions: Sequence[Submission], place: Place, *, study: Path) -> dict[str, str]:
    """Slurm's job ids by the submission's name. Raises `ResourceError` where Slurm refuses one; those before it are cancelled."""
    ids: dict[str, str] = {}
    try:
        for one in submissions:
            ids[one.name] = _sbatch([*dependency(one, ids), str(one.batch.script), *one.arguments], one.name, place)
    except ResourceError:
        slurm.cancel(list(ids.values()), login=place.ssh)
        raise
    return ids


def _sbatch(arguments: Sequence[str], name: str, place: Place) -> str:
    answer = ssh.run(place.ssh, ["sbatch", "--parsable", *arguments])
    if answer.returncode != 0:
        raise ResourceError(
            f"sbatch refuses {name}: {answer.stderr.strip()}; nothing of this study is left in the queue"
        )
    return answer.stdout.strip().partition(";")[0]  # ID;CLUSTER where there are several
