"""One cluster for all tests of this folder, and what they submit to it.

The stages run in the tests' own environment, what submits them and Ray in that of OCTO_LAUNCH_ENV (runs.py).
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from daemons import MiniSlurm, ask
from runs import LAUNCH_BIN, PLACE, Octo

HERE = Path(__file__).parent
#: Jobs read and write below pytest's directory, which is in /tmp.
CLUSTER = {"MINI_SLURM_ACCOUNTING": "0", "MINI_SLURM_SHARE_TMP": "1", "MINI_SLURM_CPUS": "2"}
#: Where NeMo-Run has its folder in a container; without an image it is made on the machine.
RUNDIR = Path("/nemo_run")
sys.path.append(str(HERE.parent / "integration"))  # tiny_training


@pytest.fixture(scope="session")
def packages() -> None:
    """Slurm, sshd and a compiler are installed."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("the throw-away Slurm cluster needs root on Debian")
    MiniSlurm(CLUSTER).call("install")


@pytest.fixture(scope="session")
def plugin(packages: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The plugin with pyxis' options."""
    made = tmp_path_factory.mktemp("plugin") / "container_options.so"
    source = HERE / "container_options.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", made, source], check=True)
    known = RUNDIR.exists()
    yield made
    if RUNDIR.exists() and not known:
        RUNDIR.rmdir()


@pytest.fixture(scope="session")
def slurm(plugin: Path) -> Iterator[MiniSlurm]:
    """The cluster, without accounting; Slurm's clients in this process find it."""
    cluster = MiniSlurm(CLUSTER | {"MINI_SLURM_SPANK": str(plugin)})
    cluster.call("down")
    try:
        cluster.call("up")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", cluster.call("env").strip().partition("=")[2])
            patch.setenv("OMP_NUM_THREADS", "1")
            patch.setenv("HF_HUB_OFFLINE", "1")
            yield cluster
    finally:
        cluster.call("down")


@pytest.fixture(autouse=True)
def _alone(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test finds an empty cluster, whatever became of the one before."""
    cluster = request.getfixturevalue("slurm") if "slurm" in request.fixturenames else None
    yield
    if cluster and (left := cluster.alive()):
        ask("scancel", *left)
        cluster.wait_for(left)


@pytest.fixture(params=["nemo-run", "sbatch"])
def submitter(request: pytest.FixtureRequest) -> str:
    """Both who can hand jobs to Slurm."""
    if request.param == "nemo-run" and LAUNCH_BIN is None:
        pytest.skip("name an environment with NeMo-Run in OCTO_LAUNCH_ENV ('make test-slurm' does)")
    return str(request.param)


@pytest.fixture
def octo(tmp_path: Path) -> Octo:
    """`megatron-octo WORDS...`, in a working directory of the test's own, which ends with `code`; the rest is environment."""

    def call(*words: object, code: int = 0, **changes: str) -> "subprocess.CompletedProcess[str]":
        command = [(LAUNCH_BIN or Path(sys.executable).parent) / "megatron-octo", *map(str, words)]
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | changes, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == code, f"{done.returncode}: {done.stderr[-3000:]}{done.stdout[-2000:]}"
        return done

    return call


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random text for `tiny.stable`."""
    from tiny_training import write_shards

    directory = tmp_path_factory.mktemp("shards")
    for seed, corpus in enumerate(("web", "general", "code", "qa")):
        write_shards(directory, corpus, windows=1000, seed=seed)
    return directory


@pytest.fixture
def place(tmp_path: Path) -> Callable[..., Path]:
    """A file that describes the mini cluster, with changes."""

    def write(**changes: Any) -> Path:
        file = tmp_path / "place.yaml"
        file.write_text(json.dumps(PLACE | changes))  # JSON is YAML
        return file

    return write
