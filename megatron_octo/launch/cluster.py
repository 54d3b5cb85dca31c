"""Jobs on a cluster: written, submitted with what they wait for, and noted down. Nothing here waits for them."""

import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from megatron_octo import artifacts, units
from megatron_octo.errors import ConfigError, ResourceError
from megatron_octo.launch import provenance
from megatron_octo.launch.jobs import Job, write_config
from megatron_octo.launch.jobscript import batch as batches
from megatron_octo.launch.jobscript import scripts, skypilot
from megatron_octo.launch.jobscript.batch import BatchJob
from megatron_octo.launch.place import Kind, Place
from megatron_octo.launch.slurm import ledger, queue, ssh, submitting
from megatron_octo.launch.slurm.ledger import Entry, Ledger
from megatron_octo.launch.slurm.submitting import Submission

#: Below the study's directory: the submissions as a shell script.
SCRIPT = Path("launch", "submit.sh")


def run(jobs: Sequence[Job], place: Place, nodes: int | None, study_dir: Path, command: str, dry: bool) -> None:
    """Submit what of the jobs is not done yet; with `dry`, write the same files and print them instead.

    Args:
        nodes: of training, or of the only job; None leaves it to the stage.
        study_dir: the study's directory, or that of the only stage; its absolute path is the same on every node.
        command: what the user typed, for the record.
    Raises:
        ConfigError: a job does not fit the place.
        ArtifactError: a stage was made with another config, or from other inputs.
        ResourceError: jobs of this study are still queued; Slurm or the login node refuses.
    """
    study = study_dir.absolute()
    if place.kind is Kind.SKYPILOT:
        _print_pipeline(jobs, place, nodes, study, dry)
        return
    batch = batches.prepare(open_jobs(jobs), place, nodes, study, Path.cwd() if place.ssh is None else study)
    if not batch:
        print("every stage is done; nothing to submit", file=sys.stderr)
        return
    if place.ssh is not None:
        _require_absolute(batch)
    if not dry:
        _require_idle(study, place)
    made = submitting.submissions(batch, place)
    write(batch, made, place, study)
    provenance.record([one.job for one in batch], place, command=command)
    if dry:
        print(_shown(batch, made))
        return
    for one in batch:
        scripts.forget(one)
    if place.ssh is not None and not ssh.sees(place.ssh, study):
        ssh.push(place.ssh, [study / SCRIPT, *(one.job.logs.absolute() for one in batch)])
    ids = submitting.submitter(place)(made, place, study=study)
    ledger.write(study, _ledger(batch, made, ids, place, command))
    for one in batch:
        print(f"{one.job.name}: job {', '.join(_ids(one, made, ids))}", file=sys.stderr)


def _print_pipeline(jobs: Sequence[Job], place: Place, nodes: int | None, study: Path, dry: bool) -> None:
    if not dry:
        raise ConfigError(
            f"places of kind {place.kind.value} are experimental: --dry-run prints what 'sky jobs launch' takes, nothing is submitted"
        )
    batch = batches.prepare(open_jobs(jobs), place, nodes, study, Path.cwd())
    text = skypilot.pipeline(batch, place, name=study.name.removesuffix(".logs"))
    for one in batch:
        write_config(one.job)
    print(text, end="")


def open_jobs(jobs: Sequence[Job]) -> list[Job]:
    """The jobs whose stage is not done. Raises `ArtifactError` where one was made with another config or other inputs."""
    return [job for job in jobs if job.always_starts or not artifacts.is_finished(job.out, config=job.config)]


def write(batch: Sequence[BatchJob], made: Sequence[Submission], place: Place, study: Path) -> None:
    """All files of a batch, and the script that submits them."""
    for one in batch:
        scripts.write(one, place)
    script = study / SCRIPT
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(submitting.shell_lines(made))
    script.chmod(0o755)


def _require_absolute(batch: Sequence[BatchJob]) -> None:
    """Raises `ConfigError` for a relative path in a config: it begins in a directory here, which the cluster may not have."""
    for one in batch:
        for path in _paths(one.job.config):
            if not path.is_absolute():
                raise ConfigError(
                    f"{one.job.name} reads '{path}' on a cluster behind ssh; write its absolute path there"
                )


def _paths(value: object) -> Iterator[Path]:
    """Every path in a config."""
    if isinstance(value, Path):
        yield value
    elif dataclasses.is_dataclass(value):
        yield from (path for field in dataclasses.fields(value) for path in _paths(getattr(value, field.name)))
    elif isinstance(value, Mapping):
        yield from (path for each in value.values() for path in _paths(each))
    elif isinstance(value, (tuple, list)):
        yield from (path for each in value for path in _paths(each))


def _require_idle(study: Path, place: Place) -> None:
    """Raises `ResourceError` while jobs of an earlier submission run or wait: two would write into one directory."""
    if not ledger.exists(study):
        return
    jobs = ledger.read(study).jobs
    known = queue.states([id_ for job in jobs.values() for id_ in job.ids], login=place.ssh, accounting=False)
    busy = {name: id_ for name, job in jobs.items() for id_ in job.ids if id_ in known and known[id_].alive}
    if busy:
        name, id_ = next(iter(busy.items()))
        raise ResourceError(
            f"{len(busy)} stages of {study} are queued or run, such as {name} (job {id_}); wait for them, or 'megatron-octo cancel {study}'"
        )


def _shown(batch: Sequence[BatchJob], made: Sequence[Submission]) -> str:
    """One job's batch script in full; of several, the lines that submit them, which name the files."""
    lines = submitting.shell_lines(made)
    return f"{batch[0].script.read_text()}\n\n{lines}" if len(batch) == 1 else lines


def _ids(one: BatchJob, made: Sequence[Submission], ids: dict[str, str]) -> tuple[str, ...]:
    return tuple(ids[other.name] for other in made if other.batch is one)


def _ledger(
    batch: Sequence[BatchJob], made: Sequence[Submission], ids: dict[str, str], place: Place, command: str
) -> Ledger:
    return Ledger(
        place=place,
        submitted_at=units.utc(time.time()),
        command=command,
        jobs={
            one.job.name: Entry(
                id=_ids(one, made, ids)[-1],
                ids=_ids(one, made, ids),
                out=one.job.out.absolute(),
                logs=one.job.logs.absolute(),
                needs=one.job.needs,
                script=one.script,
            )
            for one in batch
        },
    )
