"""Studies of stages that count, and their submission to the mini cluster."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from megatron_octo.launch import cluster
from megatron_octo.launch.jobs import Job
from megatron_octo.launch.place import SSH, Kind, Place, Submitter
from megatron_octo.launch.status import standing, states
from megatron_octo.launch.status.states import StageStatus

#: Counts to `steps`, as fast as it may, and goes on from where SIGTERM stopped it; fails at `fails_at` unless OUT/mended is there.
STAGE = """
import json, pathlib, signal, sys, time
from megatron_octo import artifacts

config, out = json.loads(open(sys.argv[1]).read()), pathlib.Path(sys.argv[2])
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
with artifacts.stage(out, kind="test", config=config, resumable=True) as stage:
    if stage.done:
        sys.exit()
    saved = out / "saved"
    step = int(saved.read_text()) if saved.exists() else 0
    print("begins at", step, flush=True)
    while step < config["steps"]:
        if stop:
            time.sleep(config["save_seconds"])
            saved.write_text(str(step))
            print("saved at", step, flush=True)
            stage.complete = False
            break
        if step == config["fails_at"] and not pathlib.Path(config["mended"]).exists():
            raise RuntimeError(f"no step {step}")
        time.sleep(0.1)
        step += 1
        print("step", step, flush=True)
"""


class Study:
    """Stages that count, submitted to the cluster."""

    def __init__(self, directory: Path, login: SSH | None = None) -> None:
        self.directory, self.modules = directory / "study", directory / "modules"
        self.modules.mkdir(exist_ok=True)
        (self.modules / "counting_stage.py").write_text(STAGE)
        environment = directory / "environment.sh"
        environment.write_text(f"PYTHONPATH={self.modules}\n")
        environment.chmod(0o600)
        self.place = Place(
            kind=Kind.SLURM, gpus_per_node=0, cpus_per_node=1, time_limit="10", python=sys.executable, environment_file=environment,
            retries=0, save_seconds=20, accounting=False, submitter=Submitter.SBATCH, ssh=login,
        )  # fmt: skip

    def job(
        self, name: str, *needs: str, steps: int = 1, fails_at: int | None = None, save_seconds: float = 0.0
    ) -> Job:
        settings = {"steps": steps, "fails_at": fails_at, "mended": str(self.mended), "save_seconds": save_seconds}
        out, folder = self.directory / name, self.directory / "logs" / name
        return Job(name=name, module="counting_stage", config=settings, out=out, logs=folder, needs=needs)

    @property
    def mended(self) -> Path:
        return self.directory.with_name("mended")

    def submit(self, *jobs: Job) -> None:
        cluster.run(jobs, self.place, None, self.directory, "megatron-octo study counting", False)

    def wait(self, until: Callable[[dict[str, StageStatus]], bool]) -> dict[str, StageStatus]:
        deadline = time.monotonic() + 90
        while True:
            found = {stage.stage: stage for stage in standing.status(self.directory)}
            if until(found):
                return found
            assert time.monotonic() < deadline, states.as_table(list(found.values()))
            time.sleep(0.3)

    def file(self, stage: str, session: int = 0) -> Path:
        return self.directory / "logs" / stage / f"session-{session}" / "rank0.log"
