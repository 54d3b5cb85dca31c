"""A login node on this machine, through a real sshd with keys of its own, and a laptop that reaches it."""

import getpass
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from megatron_octo.launch.place import SSH

SSHD = "/usr/sbin/sshd"
SLURM_CLIENTS = ("sacct", "sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun")


@contextmanager
def serve(directory: Path, environment: Mapping[str, str]) -> Iterator[tuple[SSH, Path]]:
    """How to reach the login node, and the programs of the laptop.

    These are what a machine without Slurm has, and an `ssh` that knows the host key without touching the user's own files.

    Args:
        environment: variables of every command that is run there.
    """
    directory.mkdir()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
    port = _free_port()
    (directory / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {directory}/host\nAuthorizedKeysFile {directory}/user.pub\nStrictModes no\n"
        f"UsePAM no\nPidFile none\nPermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"
        f"SetEnv {' '.join(f'{key}={value}' for key, value in environment.items())}\n"
    )
    (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {(directory / 'host.pub').read_text()}")
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with (
        (directory / "log").open("w") as log,
        subprocess.Popen([SSHD, "-D", "-e", "-f", directory / "sshd_config"], stderr=log) as server,
    ):
        try:
            _wait_for(port)
            login = SSH(host="127.0.0.1", user=getpass.getuser(), port=port, identity=directory / "user")
            yield login, _make_laptop(directory)
        finally:
            server.terminate()


def _make_laptop(directory: Path) -> Path:
    programs = directory / "bin"
    programs.mkdir()
    for program in Path("/usr/bin").iterdir():
        if program.name not in SLURM_CLIENTS and program.name != "ssh":
            (programs / program.name).symlink_to(program)
    ssh = programs / "ssh"
    ssh.write_text(
        f'#!/bin/sh\nexec {shutil.which("ssh")} -F none -o UserKnownHostsFile={directory}/known_hosts "$@"\n'
    )
    ssh.chmod(0o755)
    return programs


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
