"""A job as a cluster takes it: what it asks for, what it reads, what Slurm calls it. Arithmetic on a job and a place."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from megatron_octo.conversion.config import Conversion
from megatron_octo.curation.config import InParts
from megatron_octo.errors import ConfigError
from megatron_octo.launch.jobs import Job
from megatron_octo.launch.jobscript import requests
from megatron_octo.launch.jobscript.requests import Request
from megatron_octo.launch.place import Place
from megatron_octo.tokenization.config import Tokenization
from megatron_octo.training.config import TrainingJob

#: What bash and Slurm leave as it is without quotes: NeMo-Run writes none in an srun line.
UNQUOTED = re.compile(r"[\w./:@%+=,#~^-]+")
#: NeMo-Run's name for its folder inside a container; it replaces the word wherever it stands.
RUNDIR = "/nemo_run"


@dataclass(frozen=True, kw_only=True)
class BatchJob:
    """A job with all that its three files say."""

    job: Job
    request: Request
    #: Name of the study, which Slurm's job names begin with.
    study: str
    #: Where relative paths of the config begin.
    directory: Path
    #: Directories of the stages it reads, by name, which must be done.
    needs: Mapping[str, Path] = field(default_factory=dict)
    #: Directories that a container gets at their own paths.
    mounts: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """The job's name without slashes, for file names and Slurm."""
        return self.job.name.replace("/", ".")

    @property
    def script(self) -> Path:
        return self.job.logs.absolute() / "job.sbatch"

    @property
    def tasks(self) -> int:
        """Tasks of the array that shares the stage; 1 is no array."""
        return self.job.config.tasks if isinstance(self.job.config, (Tokenization, Conversion, InParts)) else 1

    @property
    def passes(self) -> int:
        """How often the array runs: documents are shuffled when all of them are encoded, so a second one does that."""
        shuffles = isinstance(self.job.config, Tokenization) and self.job.config.shuffle_seed is not None
        return 2 if self.tasks > 1 and shuffles else 1


def prepare(jobs: Sequence[Job], place: Place, nodes: int | None, study: Path, directory: Path) -> list[BatchJob]:
    """Jobs as batch jobs.

    Args:
        nodes: of training, or of the only job; the other stages know themselves.
        study: directory of the study, or of the only stage.
        directory: where relative paths begin.
    Raises:
        ConfigError: a job does not fit the place, or a path cannot stand in a batch script.
    """
    outs = {job.name: job.out.absolute() for job in jobs}
    found = [
        BatchJob(
            job=job,
            request=requests.request(
                job, place, nodes if len(jobs) == 1 or isinstance(job.config, TrainingJob) else None
            ),
            study=_word(study.absolute().name.removesuffix(".logs")),
            directory=directory.absolute(),
            needs={need: outs[need] for need in job.needs if need in outs},
            mounts=_outermost(study.absolute(), directory.absolute(), job.out.absolute().parent, job.logs.absolute()),
        )
        for job in jobs
    ]
    for batch in found:
        _check_words(batch, place)
    return found


def _outermost(*paths: Path) -> tuple[Path, ...]:
    """Directories without those below another of them."""
    return tuple(
        path
        for path in dict.fromkeys(paths)
        if not any(path != other and path.is_relative_to(other) for other in paths)
    )


def _word(name: str) -> str:
    """A directory's name as the first part of Slurm's job names."""
    return re.sub(r"[^\w-]", "-", name) or "study"


def _check_words(batch: BatchJob, place: Place) -> None:
    """Raises `ConfigError` for what an unquoted srun line would tear apart."""
    container = place.container_of(batch.job.module)
    said = {
        "the path": [str(batch.job.logs.absolute()), *map(str, batch.mounts if container else ())],
        "container.image": [container.image] if container else [],
        "container.mounts": list(container.mounts) if container else [],
        "srun": list(place.srun),
    }
    for where, words in said.items():
        for word in words:
            if not UNQUOTED.fullmatch(word):
                raise ConfigError(
                    f"{where} '{word}' cannot stand in NeMo-Run's batch scripts, which quote nothing; use letters, digits and ./_-"
                )
    if RUNDIR in str(batch.job.logs.absolute()):
        raise ConfigError(
            f"the path {batch.job.logs.absolute()} has {RUNDIR} in it, which NeMo-Run replaces in its batch scripts; name another"
        )
