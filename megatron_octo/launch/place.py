"""Where jobs run: a small YAML file of the user's, named with `--on`. No field here says what is computed.

`--on NAME` is `NAME.yaml` in the working directory's `places/`, or in `~/.config/megatron-octo/places`; `--on FILE.yaml` is that file;
`local` is this machine and needs none. docs/cluster.md has an example of each kind.
"""

import enum
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_octo import config
from megatron_octo.errors import ConfigError, nearest

LOCAL = "local"
USER_PLACES = Path("~/.config/megatron-octo/places")


class Kind(enum.Enum):
    """What takes the jobs."""

    SLURM = "slurm"
    #: Clouds and Kubernetes. Experimental: printed by --dry-run, never submitted.
    SKYPILOT = "skypilot"


class Restart(enum.Enum):
    """How a job goes on that was told to stop before its stage was done."""

    #: `scontrol requeue`, under the same job number.
    REQUEUE = "requeue"
    #: Where requeueing is forbidden: copies of the job, submitted with it, one after another (`--dependency=singleton`).
    CHAIN = "chain"
    NEVER = "never"


class Submitter(enum.Enum):
    """Who hands the rendered files to Slurm."""

    NEMO_RUN = "nemo-run"
    SBATCH = "sbatch"


@dataclass(frozen=True, kw_only=True)
class Container:
    """Options of pyxis. The study's directory is mounted at its own path without being named here."""

    image: str
    #: SOURCE:TARGET[:OPTIONS]
    mounts: tuple[str, ...] = ()
    #: Names of variables that the job's environment, not the image's, decides.
    env: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SSH:
    """A login node to submit from. Its keys and host must be known to ssh: nobody is asked anything."""

    host: str
    user: str
    port: int = 22
    identity: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Place:
    """A cluster, as one project sees it."""

    kind: Kind
    account: str | None = None
    partition: str | None = None
    #: Where stages without GPUs go: tokenisation, conversion, reports. None: the same.
    cpu_partition: str | None = None
    qos: str | None = None
    #: 0 for nodes without.
    gpus_per_node: int = 8
    cpus_per_node: int
    #: As sbatch takes it: MINUTES, HH:MM:SS, D-HH:MM:SS.
    time_limit: str
    container: Container | None = None
    #: Container of stages with an environment of their own, by module: `megatron_octo.rl.openrlhf_run`.
    containers: dict[str, Container] = field(default_factory=dict)
    #: The interpreter on the nodes, or in the image, that has this package.
    python: str = "python"
    #: The same for stages with an environment of their own.
    pythons: dict[str, str] = field(default_factory=dict)
    #: A shell file that every job sources first, readable to its owner alone: where secrets belong. What it sets is exported.
    environment_file: Path | None = None
    #: Whether jobs of several tasks look at their nodes first (node/check.py), and go on without those that are not fit. None: where
    #: there are GPUs; it takes as long as importing torch does.
    check_nodes: bool | None = None
    restart: Restart = Restart.REQUEUE
    #: Jobs per stage with `restart: chain`; enough time limits for the longest. Those that find it done leave at once.
    copies: int = 4
    #: Further sessions after one without any progress, before a job is given up.
    retries: int = 2
    #: How long the largest stage takes to end its step and save; SIGTERM comes this and Slurm's slack before the time limit.
    save_seconds: int = 120
    #: Whether `sacct` answers here.
    accounting: bool = True
    submitter: Submitter = Submitter.NEMO_RUN
    #: Further options of sbatch by their long names: {"switches": 1, "exclusive": true}.
    sbatch: dict[str, str | int | bool] = field(default_factory=dict)
    #: Further options of every srun: ["--mpi=none"].
    srun: tuple[str, ...] = ()
    ssh: SSH | None = None
    #: SkyPilot's name of the GPUs, such as H100, and further `resources` of its tasks: {"infra": "k8s", "use_spot": true}.
    accelerator: str | None = None
    resources: dict[str, str | int | bool] = field(default_factory=dict)
    #: What `plan` multiplies GPU-hours by.
    price_per_gpu_hour: float | None = None

    def __post_init__(self) -> None:
        config.require_positive(self, "cpus_per_node", "save_seconds", "copies")
        for name in ("gpus_per_node", "retries"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must not be negative")
        if minutes(self.time_limit) * 60 <= self.save_seconds + SLACK_SECONDS:
            raise ConfigError(
                f"time_limit {self.time_limit} leaves no time to work: saving takes {self.save_seconds} s and Slurm's signal may "
                f"come {SLACK_SECONDS} s early"
            )
        if self.submitter is Submitter.NEMO_RUN and self.restart is not Restart.REQUEUE:
            raise ConfigError(
                f"NeMo-Run submits every job with --requeue, which restart: {self.restart.value} rules out; set submitter: sbatch"
            )
        self._check_sbatch()

    def _check_sbatch(self) -> None:
        for option, value in self.sbatch.items():
            name = option.replace("_", "-")
            if name in OURS:
                raise ConfigError(f"sbatch.{option} is decided by {OURS[name]}; leave it out of `sbatch`")
            if value is False:
                raise ConfigError(f"sbatch.{option}: false says nothing to sbatch; leave it out")

    @property
    def signal_seconds(self) -> int:
        """Seconds before the time limit at which SIGTERM is asked for."""
        return self.save_seconds + SLACK_SECONDS

    @property
    def checks_nodes(self) -> bool:
        return self.gpus_per_node > 0 if self.check_nodes is None else self.check_nodes

    def container_of(self, module: str) -> Container | None:
        return self.containers.get(module, self.container)

    def python_of(self, module: str) -> str:
        return self.pythons.get(module, self.python)


#: Slurm sends a job's signal up to so much early (sbatch(1), --signal).
SLACK_SECONDS = 60
#: Options of sbatch that have a field of their own, or that belong to us, and what decides them.
OURS = {
    "account": "`account`",
    "partition": "`partition`",
    "qos": "`qos`",
    "time": "`time_limit`",
    "signal": "`save_seconds`",
    "requeue": "`restart`",
    "no-requeue": "`restart`",
    "nodes": "--nodes",
    "ntasks": "the stage",
    "ntasks-per-node": "the stage",
    "gpus-per-node": "`gpus_per_node` and the stage",
    "cpus-per-task": "`cpus_per_node` and the stage",
    "array": "the stage",
    "dependency": "the stages it needs",
    "kill-on-invalid-dep": "the launcher",
    "job-name": "the launcher",
    "output": "the launcher",
    "error": "the launcher",
    "open-mode": "the launcher",
    "export": "`environment_file`",
}
#: Numbers of YAML 1.1 that may be written to the base of 60, and what they look like without.
BASE_60 = {
    "tag:yaml.org,2002:int": re.compile(r"[-+]?[0-9]+$"),
    "tag:yaml.org,2002:float": re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$"),
}


def minutes(time_limit: str) -> int:
    """Minutes of a time limit, seconds rounded up. Raises `ConfigError` for what sbatch would not take."""
    days, dash, rest = time_limit.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdecimal() for part in parts) or len(parts) > 3 or (dash and not days.isdecimal()):
        raise ConfigError(f"time_limit '{time_limit}' is no time; write MINUTES, HH:MM:SS or D-HH:MM:SS")
    numbers = [int(part) for part in parts]
    if days:  # D-HH, D-HH:MM, D-HH:MM:SS
        hours, mins, seconds = (*numbers, 0, 0)[:3]
    elif len(numbers) == 3:
        hours, mins, seconds = numbers
    else:  # MM, MM:SS
        hours, (mins, seconds) = 0, (*numbers, 0)[:2]
    return int(days or 0) * 1440 + hours * 60 + mins + (seconds > 0)


def load(file: Path) -> Place:
    """Raises `ConfigError` naming the file and the key."""
    try:
        data = _read_yaml(file.read_text())
        if isinstance(data, dict) and type(data.get("time_limit")) is int:  # minutes
            data["time_limit"] = str(data["time_limit"])
        return config.from_dict(Place, data)
    except OSError as error:
        raise ConfigError(f"cannot read the place {file}: {error.strerror}") from error
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def _read_yaml(text: str) -> Any:
    """YAML as people mean it: 12:00:00 is a time, and not 43,200, as YAML 1.1 has it."""
    import yaml  # not at the top: `--help` does without

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's name for it
            first: [(tag, pattern) for tag, pattern in known if tag not in BASE_60]
            for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    for tag, pattern in BASE_60.items():
        Loader.add_implicit_resolver(tag, pattern, list("-+0123456789."))
    try:
        return yaml.load(text, Loader)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        raise ConfigError(f"is not YAML: {error}") from error


def find(word: str, *, directory: Path) -> Place | None:
    """The place that `--on` names; None is this machine.

    Args:
        directory: where `places/` may lie; the working directory.
    """
    if word == LOCAL:
        return None
    if word.endswith((".yaml", ".yml")) or os.sep in word:
        return load(Path(word))
    folders = (directory / "places", USER_PLACES.expanduser())
    for folder in folders:
        if (folder / f"{word}.yaml").is_file():
            return load(folder / f"{word}.yaml")
    known = [LOCAL, *sorted(file.stem for folder in folders for file in folder.glob("*.yaml"))]
    raise ConfigError(
        f"unknown place '{word}'{nearest(word, known)}; a place is a file {word}.yaml in {folders[0]} or {folders[1]}, or a path to one"
    )
