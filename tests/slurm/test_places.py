"""A place with containers, one behind SSH."""

import getpass
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from daemons import MiniSlurm
from runs import Octo, job_ids

from megatron_octo import artifacts

TRAIN = ("train", "tiny.stable", f"train_tokens={2 * 2048}")
SLURM_CLIENTS = ("sacct", "sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun")
#: There in the container only.
INTERPRETER = """#!/bin/sh
echo "in $CONTAINER_IMAGE"
touch "$(dirname "$0")/made"
exec {python} "$@"
"""


def test_in_containers(
    slurm: MiniSlurm,
    octo: Octo,
    place: Callable[..., Path],
    submitter: str,
    shards: Path,
    tmp_path: Path,
    plugin: Path | None,
) -> None:
    if plugin is None:
        pytest.skip("the plugin that stands for pyxis needs gcc and libslurm-dev")
    outside, inside, out = tmp_path / "outside", tmp_path / "inside", tmp_path / "stable"
    outside.mkdir()
    (outside / "python").write_text(INTERPRETER.format(python=sys.executable))
    (outside / "python").chmod(0o755)
    container = {"image": "lab#octo:1", "mounts": [f"{outside}:{inside}:ro"]}
    where = place(submitter=submitter, python=f"{inside}/python", container=container)

    said = octo(*TRAIN, "--shards", shards, "--out", out, "--on", where).stderr
    slurm.wait_for(job_ids(said))

    log = (tmp_path / "stable.logs" / "session-0" / "rank0.log").read_text()
    assert artifacts.is_done(out), log
    assert log.startswith("in lab#octo:1\n")
    assert "Read-only file system" in log
    assert not (inside / "python").exists()


@pytest.fixture
def login(tmp_path: Path, slurm: MiniSlurm) -> Iterator[dict[str, object]]:
    """A login node, which alone knows where the cluster is: this machine, through an sshd of our own."""
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    if sshd is None or shutil.which("rsync") is None:
        pytest.skip("needs openssh-server and rsync")
    folder = tmp_path / "ssh"
    folder.mkdir()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    conf = slurm.call("env").strip().removeprefix("export ")
    (folder / "sshd_config").write_text(
        f"HostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\nStrictModes no\nPermitRootLogin yes\nUsePAM no\n"
        f"PidFile none\nListenAddress 127.0.0.1:{port}\nSetEnv {conf}\nSubsystem sftp internal-sftp\n"
    )
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    _make_laptop(folder)
    Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen([sshd, "-D", "-e", "-f", folder / "sshd_config"], stderr=(folder / "log").open("w"))
    try:
        _wait_for(port)
        yield {"host": "127.0.0.1", "user": getpass.getuser(), "port": port, "identity": str(folder / "user")}
    finally:
        server.terminate()
        server.wait()


def _make_laptop(folder: Path) -> None:
    """`folder/bin`: what a machine without Slurm has, where NeMo-Run does not take itself for the login node, and the user's ~/.ssh."""
    (folder / "bin").mkdir()
    for program in Path("/usr/bin").iterdir():
        if program.name not in SLURM_CLIENTS and program.name != "ssh":
            (folder / "bin" / program.name).symlink_to(program)
    ssh = folder / "bin" / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -o UserKnownHostsFile={folder}/known_hosts "$@"\n')
    ssh.chmod(0o755)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def test_over_ssh(
    slurm: MiniSlurm,
    octo: Octo,
    place: Callable[..., Path],
    submitter: str,
    login: dict[str, object],
    shards: Path,
    tmp_path: Path,
) -> None:
    out, where = tmp_path / "stable", place(submitter=submitter, ssh=login)
    laptop = {"PATH": f"{tmp_path}/ssh/bin"}

    said = octo(*TRAIN, "--shards", shards, "--out", out, "--on", where, **laptop).stderr
    slurm.wait_for(job_ids(said))

    [stage] = json.loads(octo("status", out, "--json", **laptop).stdout)
    assert (stage["state"], stage["step"]) == ("done", 2)
    assert artifacts.is_done(out)
