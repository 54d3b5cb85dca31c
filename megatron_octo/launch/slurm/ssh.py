"""Commands and files on a login node: the system's own `ssh` and `tar`, with the user's keys, known hosts and ~/.ssh/config.

Assumed: the study's directory has the same absolute path here and there. Where both machines see one file system, nothing is
copied; otherwise small files only are: what a job starts from goes there, what a job says about itself comes back. Nobody is
asked anything (`BatchMode`): where a site wants a second factor, `ControlMaster auto` in ~/.ssh/config keeps one connection open.
"""

import shlex
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path

from megatron_octo.errors import ResourceError
from megatron_octo.launch.place import SSH

#: ssh's own exit code: no connection, no such host, no key that is taken.
EXIT_NO_CONNECTION = 255
CONNECT_SECONDS = 15
#: A command on a login node that is not back by then hangs.
TIMEOUT_SECONDS = 120


def command(login: SSH | None, arguments: Sequence[str]) -> list[str]:
    """What to start here so that `arguments` run there; the shell over there sees each of them whole."""
    if login is None:
        return list(arguments)
    identity = ["-i", str(login.identity)] if login.identity is not None else []
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_SECONDS}", "-p", str(login.port), *identity]
    return ["ssh", *options, f"{login.user}@{login.host}", "--", shlex.join(arguments)]


def run(login: SSH | None, arguments: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """Run a command there, or here without a login node; its exit code is the caller's to judge.

    Raises:
        ResourceError: no connection, no such program here, or no end within `TIMEOUT_SECONDS`.
    """
    finished = _finish(login, arguments, given=b"")
    return subprocess.CompletedProcess(
        finished.args, finished.returncode, finished.stdout.decode(), finished.stderr.decode(errors="replace")
    )


def sees(login: SSH, directory: Path) -> bool:
    """Whether the login node sees this very directory, and not another of the same name."""
    probe = directory / f".seen-{uuid.uuid4().hex[:12]}"
    directory.mkdir(parents=True, exist_ok=True)
    probe.touch()
    try:
        return run(login, ["test", "-e", str(probe)]).returncode == 0
    finally:
        probe.unlink()


def push(login: SSH, files: Sequence[Path]) -> None:
    """Copy files and directories there, to the same absolute paths. Raises `ResourceError`."""
    packed = _check(_finish(None, ["tar", "-czf", "-", "-C", "/", *_below_root(files)], given=b""), "pack", files)
    _check(_finish(login, ["tar", "-xzf", "-", "-C", "/"], given=packed), "unpack", files)


def pull(login: SSH, directory: Path, patterns: Sequence[str]) -> None:
    """Copy back the files below a directory whose path, relative to it, is like one of the patterns of `find -path`.

    A file that grows meanwhile comes as it was at some moment. Raises `ResourceError`.
    """
    likes = [word for pattern in patterns for word in ("-o", "-path", f"./{pattern}")][1:]
    listed = shlex.join(["find", ".", "-type", "f", "(", *likes, ")", "-print0"])
    # tar says 1 where a file changed while it was read.
    script = (
        f"cd {shlex.quote(str(directory))} && {listed} | "
        "{ tar --null --files-from=- --warning=no-file-changed -czf -; test $? -le 1; }"
    )
    packed = _check(_finish(login, ["sh", "-c", script], given=b""), "fetch", [directory])
    directory.mkdir(parents=True, exist_ok=True)
    _check(_finish(None, ["tar", "-xzf", "-", "-C", str(directory)], given=packed), "unpack", [directory])


def _below_root(files: Sequence[Path]) -> list[str]:
    return [str(file.absolute().relative_to("/")) for file in files]


def _finish(login: SSH | None, arguments: Sequence[str], *, given: bytes) -> "subprocess.CompletedProcess[bytes]":
    started = command(login, arguments)
    where = f"{login.user}@{login.host}" if login is not None else "this machine"
    try:
        finished = subprocess.run(started, input=given, capture_output=True, timeout=TIMEOUT_SECONDS)
    except FileNotFoundError as error:
        raise ResourceError(
            f"'{started[0]}' is not on this machine; install it, or work where it is"
            + (" (a login node: name it as `ssh` in the place)" if login is None else "")
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ResourceError(
            f"'{shlex.join(arguments)}' on {where} did not end within {TIMEOUT_SECONDS} s; is its file system or Slurm stuck?"
        ) from error
    if login is not None and finished.returncode == EXIT_NO_CONNECTION:
        said = finished.stderr.decode(errors="replace").strip()
        raise ResourceError(
            f"no connection to {where}, port {login.port}: {said}; 'ssh -p {login.port} {where} true' must work without a question"
        )
    return finished


def _check(finished: "subprocess.CompletedProcess[bytes]", doing: str, files: Sequence[Path]) -> bytes:
    """The output of a command that must not fail. Raises `ResourceError`."""
    if finished.returncode != 0:
        said = finished.stderr.decode(errors="replace").strip()
        raise ResourceError(
            f"could not {doing} {', '.join(map(str, files))}: {said}; a study over SSH needs its absolute path on both sides"
        )
    return finished.stdout
