"""Our batch scripts against NeMo-Run's own, and against a real slurmctld with 64 nodes that exist on paper only."""

import getpass
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import LAUNCH_BIN

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "tests" / "unit" / "launch"
GOLDEN = sorted((UNIT / "golden").glob("*.sbatch"))
PORT = 17917

RENDER = """
import json
import rendered
from megatron_octo.launch.slurm import nemo
print(json.dumps({
    name: nemo.render([one], place, rendered.RUNS / "study")[one.job.name] for name, (one, place) in rendered.batches().items()
}))
"""

SUBMIT = """
import dataclasses, sys
from pathlib import Path
import rendered
from megatron_octo.launch import cluster
study = Path(sys.argv[1])
stable = rendered.stable("llama32_3b", study)
decay = dataclasses.replace(stable, name="decay", out=study / "decay", logs=study / "logs/decay", needs=("stable",))
shards = rendered.tokenize(study, tasks=4)
cluster.run([shards, dataclasses.replace(stable, needs=("shards/web",)), decay], rendered.PLAIN, 8, study, "command", dry=False)
"""
SBATCH = """#!/bin/bash
echo "$@" >>"$SAID"
case "$*" in *"$REFUSED"*) echo "sbatch: error: Invalid account" >&2; exit 1 ;; esac
echo $((100 + $(wc -l <"$SAID")))
"""

#: Nodes of a cloud, which Slurm plans with before they exist.
CONF = """
ClusterName=paper
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
AuthType=auth/none
CredType=cred/none
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
SwitchType=switch/none
SelectType=select/cons_tres
GresTypes=gpu
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/spool
ResumeProgram=/bin/true
SuspendProgram=/bin/true
SuspendTime=-1
NodeName=gpu[1-64] CPUs=112 RealMemory=2000000 Gres=gpu:8 State=CLOUD
NodeName=cpu[1-2] CPUs=112 RealMemory=500000 State=CLOUD
PartitionName=h100 Nodes=gpu[1-64] MaxTime=1-0 State=UP
PartitionName=cpu Nodes=cpu[1-2] MaxTime=1-0 State=UP
"""


@pytest.fixture(scope="module")
def launcher() -> str:
    """An interpreter that has NeMo-Run."""
    if LAUNCH_BIN is None:
        pytest.skip("name an environment with NeMo-Run in OCTO_LAUNCH_ENV ('make test-slurm' does)")
    return str(LAUNCH_BIN / "python")


@pytest.fixture(scope="module")
def nemo_run(launcher: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The golden files as NeMo-Run renders them."""
    folder = tmp_path_factory.mktemp("launcher")
    own = {"PYTHONPATH": f"{ROOT}:{UNIT}", "TMPDIR": str(folder), "HOME": str(folder)}
    made = subprocess.run(
        [launcher, "-c", RENDER], env=os.environ | own, cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert made.returncode == 0, made.stderr
    assert [path for path in folder.rglob("*") if path.suffix != ".pyc" and path.is_file()] == [], (
        "NeMo-Run left something"
    )
    found: dict[str, str] = json.loads(made.stdout)
    return found


@pytest.mark.parametrize("golden", GOLDEN, ids=[file.stem for file in GOLDEN])
def test_our_batch_scripts_are_nemo_runs_byte_for_byte(golden: Path, nemo_run: dict[str, str]) -> None:
    assert nemo_run[golden.stem] == golden.read_text()


def submit(launcher: str, folder: Path, refused: str) -> "subprocess.CompletedProcess[str]":
    """A study of three stages through NeMo-Run, with stand-ins for Slurm's commands."""
    for name, text in {
        "sbatch": SBATCH,
        "scancel": '#!/bin/bash\necho scancel "$@" >>"$SAID"\n',
        "srun": "",
        "squeue": "",
    }.items():
        (folder / name).write_text(text or "#!/bin/bash\n")
        (folder / name).chmod(0o755)
    own = {
        "PYTHONPATH": f"{ROOT}:{UNIT}",
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SAID": str(folder / "said"),
        "HOME": str(folder),
    }
    return subprocess.run(
        [launcher, "-c", SUBMIT, folder / "study"], env=os.environ | own | {"REFUSED": refused}, cwd=folder, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip


def test_nemo_run_submits_what_we_would(launcher: str, tmp_path: Path) -> None:
    study = tmp_path / "study"
    done = submit(launcher, tmp_path, refused="nothing")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in (tmp_path / "said").read_text().splitlines()]
    assert [(words[:-1], Path(words[-1]).name) for words in lines] == [
        (["--requeue", "--parsable"], "shards.web_sbatch.sh"),
        (["--requeue", "--parsable", "--dependency=afterok:101"], "shards.web-2_sbatch.sh"),
        (["--requeue", "--parsable", "--dependency=afterok:102"], "stable_sbatch.sh"),
        (["--requeue", "--parsable", "--dependency=afterok:103"], "decay_sbatch.sh"),
    ]
    assert Path(lines[-1][-1]).read_text() == (study / "logs/decay/job.sbatch").read_text()
    assert Path(lines[-1][-1]).is_relative_to(study / "launch" / "nemo" / "experiments" / "study")
    ledger = json.loads((study / "launch" / "jobs.json").read_text())
    assert {name: job["ids"] for name, job in ledger["jobs"].items()} == {
        "shards/web": ["101", "102"], "stable": ["103"], "decay": ["104"]
    }  # fmt: skip
    assert done.stderr == "shards/web: job 101, 102\nstable: job 103\ndecay: job 104\n"
    assert done.stdout == ""


def test_a_place_without_an_account(launcher: str) -> None:
    code = RENDER.replace("[one], place", "[one], rendered.dataclasses.replace(place, account=None)")
    own = {"PYTHONPATH": f"{ROOT}:{UNIT}"}
    made = subprocess.run([launcher, "-c", code], env=os.environ | own, capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stderr
    texts = json.loads(made.stdout)
    for golden in GOLDEN:
        lines = [line for line in golden.read_text().splitlines() if not line.startswith("#SBATCH --account")]
        assert texts[golden.stem].splitlines() == lines


def test_nothing_is_left_in_the_queue_when_nemo_run_fails_halfway(launcher: str, tmp_path: Path) -> None:
    done = submit(launcher, tmp_path, refused="decay_sbatch")
    assert done.returncode != 0
    assert "NeMo-Run could not submit this study: sbatch: error: Invalid account; nothing of it is left" in done.stderr
    assert (tmp_path / "said").read_text().splitlines()[-1] == "scancel 101 102 103"
    assert not (tmp_path / "study" / "launch" / "jobs.json").exists()


@pytest.fixture(scope="module")
def slurmctld(packages: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment for Slurm's clients."""
    folder = tmp_path_factory.mktemp("slurmctld")
    conf = CONF.format(host=socket.gethostname(), port=PORT, user=getpass.getuser(), folder=folder)
    (folder / "slurm.conf").write_text(conf)
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    with (folder / "said").open("w") as said:
        daemon = subprocess.Popen(["slurmctld", "-D"], env=environment, stdout=said, stderr=said)
    try:
        deadline = time.monotonic() + 20
        while subprocess.run(["scontrol", "ping"], env=environment, capture_output=True).returncode != 0:
            assert daemon.poll() is None, (folder / "said").read_text()
            assert time.monotonic() < deadline, "slurmctld does not answer"
            time.sleep(0.1)
        yield environment
    finally:
        daemon.terminate()
        daemon.wait(20)


@pytest.mark.parametrize("golden", GOLDEN, ids=[file.stem for file in GOLDEN])
def test_slurm_accepts_every_batch_script(golden: Path, slurmctld: dict[str, str]) -> None:
    asked = subprocess.run(["sbatch", "--test-only", golden], env=slurmctld, capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr
    if "-64-" in golden.stem:
        assert "using 7168 processors on nodes gpu[1-64] in partition h100" in asked.stderr


def test_slurm_would_refuse_what_does_not_fit(slurmctld: dict[str, str]) -> None:
    """The test above can fail."""
    too_many = ["sbatch", "--test-only", "--nodes=65", UNIT / "golden" / "llama32_3b-8-plain.sbatch"]
    asked = subprocess.run(too_many, env=slurmctld, capture_output=True, text=True)
    assert asked.returncode != 0
