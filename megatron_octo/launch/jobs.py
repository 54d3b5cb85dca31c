"""A job is one stage as a process: which room, which config, which directory, how many ranks, after which other jobs."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo import config
from megatron_octo.errors import OctoError


class StageFailedError(OctoError):
    """A stage's process ended badly; the message names the stage, the exit code and the log."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One stage of a study, or a verb of its own."""

    #: Unique within a study, such as `rl/long/seed0`; also its directory below the study's.
    name: str
    #: Module with the stage's process entry, such as `megatron_octo.training.run`.
    module: str
    config: Any
    out: Path
    #: Where the launcher leaves the resolved config and what the processes say.
    logs: Path
    #: Processes; each describes itself in RANK and WORLD_SIZE.
    ranks: int = 1
    #: Its process is started even where the stage is done, and may end before it is: it knows itself what is left to do.
    always_starts: bool = False
    #: Names of the jobs whose directories it reads.
    needs: tuple[str, ...] = ()

    @property
    def config_file(self) -> Path:
        return self.logs / "config.json"

    def command(self, *, force: bool = False) -> list[str]:
        return [
            sys.executable,
            "-m",
            self.module,
            str(self.config_file),
            str(self.out),
            *(["--force"] if force else []),
        ]


def stage(
    out: Path,
    name: str,
    module: str,
    config: object,
    *,
    needs: tuple[str, ...] = (),
    always_starts: bool = False,
    ranks: int = 1,
) -> Job:
    """A job of several below `out`, in a directory that carries its name."""
    return Job(
        name=name,
        module=f"megatron_octo.{module}",
        config=config,
        out=out / name,
        logs=out / "logs" / name,
        ranks=ranks,
        always_starts=always_starts,
        needs=needs,
    )


def logs_beside(out: Path) -> Path:
    """Where the launcher notes what it does for a stage of its own."""
    return out.with_name(f"{out.name}.logs")


def dry_run(jobs: Sequence[Job]) -> str:
    """The jobs as shell lines, in an order that respects what needs what; pasteable once the configs are written."""
    lines = []
    for job in jobs:
        after = f"  # after {', '.join(job.needs)}" if job.needs else ""
        ranks = f"torchrun --nproc-per-node {job.ranks} " if job.ranks > 1 else "python "
        lines.append(
            f"# {job.name}{after}\n{ranks}-m {job.module} {shlex.quote(str(job.config_file))} {shlex.quote(str(job.out))}"
        )
    return "\n".join(lines)


def write_config(job: Job) -> None:
    job.logs.mkdir(parents=True, exist_ok=True)
    job.config_file.write_text(config.dumps(job.config))
