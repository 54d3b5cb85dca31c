"""NeMo-Run renders and submits: the only file that imports it, and only when asked.

Of NeMo-Run this uses scripts, dependencies and detached submission. Its waiting, logs and status ask sacct alone, give a running
job up after a minute without it, and show the first session's log only; the modules of status/ do that instead.
"""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from megatron_octo.errors import ResourceError
from megatron_octo.launch.jobscript import scripts
from megatron_octo.launch.jobscript.batch import BatchJob
from megatron_octo.launch.place import SSH, Place
from megatron_octo.launch.slurm import queue
from megatron_octo.launch.slurm.submitting import Submission


def render(batch: Sequence[BatchJob], place: Place, study: Path) -> dict[str, str]:
    """Batch scripts as NeMo-Run writes them, by the job's name. Nothing of its state stays; its folder is called as the job's own."""
    home = Path(tempfile.mkdtemp(prefix="octo-"))
    try:
        with _experiment(study.name, home) as experiment:
            for one in batch:
                experiment.add(_script(one), executor=_executor(one, place, study), name=one.name)
            experiment.dryrun(log=False, delete_exp_dir=False)
            made = Path(experiment._exp_dir)
            return {
                one.job.name: _rendered(experiment, one.name).replace(
                    str(made / one.name), str(one.job.logs.absolute())
                )
                for one in batch
            }
    finally:
        shutil.rmtree(home, ignore_errors=True)


def submit(submissions: Sequence[Submission], place: Place, *, study: Path) -> dict[str, str]:
    """Submit, and keep the scripts as they went. Returns Slurm's job ids by the submission's name.

    Raises:
        ResourceError: NeMo-Run is missing, or Slurm refuses a job; those before it are cancelled.
    """
    with _experiment(study.name, study / HOME) as experiment:
        for one in submissions:
            executor = _executor(one.batch, place, study)
            experiment.add(
                _script(one.batch), executor=executor, name=one.name, dependencies=list(one.after_ok) or None
            )
        try:
            experiment.run(detach=True)
        except Exception as error:  # of Slurm, Fabric, torchx: whatever it is, nothing may be left half submitted
            ids = _ids(experiment)
            queue.cancel(list(ids.values()), login=place.ssh)
            raise ResourceError(
                f"NeMo-Run could not submit this study: {_cause(error)}; nothing of it is left in the queue"
            ) from error
        for one in submissions:
            one.batch.script.write_text(_rendered(experiment, one.name))
        return _ids(experiment)


def _cause(error: Exception) -> str:
    """Slurm's own words where there are any."""
    said = getattr(getattr(error, "result", None), "stderr", "")
    return str(said).strip() or str(error)


def _rendered(experiment: Any, name: str) -> str:
    return Path(experiment._exp_dir, f"{name}_sbatch.sh").read_text()


@contextlib.contextmanager
def _experiment(title: str, home: Path) -> Iterator[Any]:
    """An experiment that keeps its state below `home` and prints nothing."""
    home.mkdir(parents=True, exist_ok=True)
    os.environ["NEMORUN_HOME"] = str(home)  # some of it is read at the import
    try:
        import nemo_run
    except ImportError as error:
        raise ResourceError(
            f"NeMo-Run cannot be imported ({error}): pip install 'megatron-octo[launch]' in an environment of its own "
            "(docs/cluster.md), or set submitter: sbatch in the place"
        ) from error
    nemo_run.config.set_nemorun_home(str(home))
    with (
        contextlib.redirect_stdout(io.StringIO()),
        nemo_run.Experiment(
            title,
            log_level="ERROR",
            clean_mode=True,
            enable_goodbye_message=False,
            skip_status_at_exit=True,
            serialize_metadata_for_scripts=False,
        ) as experiment,
    ):
        yield experiment


def _ids(experiment: Any) -> dict[str, str]:
    """`slurm_tunnel://nemo_run/17/...` -> 17"""
    return {job.id: job.handle.split("/")[3] for job in experiment.jobs if job.handle}


def _script(one: BatchJob) -> Any:
    import nemo_run

    # One argument, a path: NeMo-Run quotes none.
    return nemo_run.Script(path=str(one.job.logs.absolute() / "rank.sh"), entrypoint="bash")


def _executor(one: BatchJob, place: Place, study: Path) -> Any:
    import nemo_run
    from nemo_run.core.execution.slurm import SlurmJobDetails

    options = scripts.sbatch_options(one, place)
    prefix = str(options["job_name"]).removesuffix(one.name)
    # `account` has no default in NeMo-Run, and may be None.
    own: dict[str, Any] = {"account": None} | {key: options.pop(key) for key in OWN_FIELDS & options.keys()}
    options.pop("job_name")
    container = place.container_of(one.job.module)
    return nemo_run.SlurmExecutor(
        **own,
        job_name_prefix=prefix,
        job_details=SlurmJobDetails(job_name=f"{prefix}{one.name}", folder=str(one.job.logs.absolute())),
        additional_parameters=options,
        container_image=container.image if container else None,
        container_mounts=scripts.container_mounts(one, container) if container else [],
        container_env=list(container.env) or None if container else None,
        srun_args=scripts.srun_options(place),
        setup_lines=scripts.setup_lines(one),
        retries=0,
        # The nodes share what runs; nothing is packed.
        packager=nemo_run.Packager(),
        tunnel=_tunnel(place.ssh, study),
        poll_estimated_start_time=False,
    )


def _tunnel(login: SSH | None, study: Path) -> Any:
    import nemo_run

    if login is None:
        return nemo_run.LocalTunnel(job_dir="")  # with another one scripts would name folders that nobody makes
    return nemo_run.SSHTunnel(
        host=login.host,
        user=login.user,
        port=login.port,
        identity=str(login.identity.expanduser()) if login.identity else None,
        job_dir=str(study / HOME / "experiments"),
    )


#: Below the study's directory. Not `nemo_run`: NeMo-Run replaces "/nemo_run" in its scripts, wherever it stands.
HOME = Path("launch", "nemo")
#: Options of sbatch that are fields of NeMo-Run's executor; the others go through `additional_parameters`.
OWN_FIELDS = {
    "account", "array", "cpus_per_task", "gpus_per_node", "nodes", "ntasks_per_node", "open_mode", "partition", "qos", "signal", "time",
}  # fmt: skip
