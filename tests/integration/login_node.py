"""A login node on this machine: a real sshd with keys of its own, for tests of what goes over SSH."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from megatron_octo.launch.place import SSH

SSHD = "/usr/sbin/sshd"


def install() -> bool:
    """Whether there is an sshd now."""
    if not Path(SSHD).exists():
        wanted = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "openssh-server", "openssh-client"]
        quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], capture_output=True, env=quiet)
        subprocess.run(wanted, capture_output=True, env=quiet)
    return Path(SSHD).exists()


@contextmanager
def serve(directory: Path, environment: Mapping[str, str]) -> Iterator[tuple[SSH, Path]]:
    """An sshd and how to reach it; `bin` holds an `ssh` that knows its host key without touching the user's own files.

    Args:
        environment: variables of every command that is run there.
    """
    port = _free_port()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
    (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {(directory / 'host.pub').read_text()}")
    (directory / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {directory}/host\nAuthorizedKeysFile {directory}/user.pub\nStrictModes no\n"
        f"UsePAM no\nPidFile none\nPermitRootLogin prohibit-password\n"
        f"SetEnv {' '.join(f'{key}={value}' for key, value in environment.items())}\n"
    )
    bin_ = directory / "bin"
    bin_.mkdir()
    (bin_ / "ssh").write_text(
        f'#!/bin/sh\nexec {shutil.which("ssh")} -F none -o UserKnownHostsFile={directory}/known_hosts "$@"\n'
    )
    (bin_ / "ssh").chmod(0o755)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with subprocess.Popen([SSHD, "-D", "-e", "-f", directory / "sshd_config"], stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(port)
            yield SSH(host="127.0.0.1", user="root", port=port, identity=directory / "user"), bin_
        finally:
            server.terminate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "sshd does not answer"
            time.sleep(0.05)
        else:
            return
