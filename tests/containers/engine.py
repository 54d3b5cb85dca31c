"""A container engine on a machine that has none: buildah, which needs no daemon, over a Debian that debootstrap makes.

Root on Debian. What it installs is two packages; what it keeps, the Debian and the newest image, lies in one folder, 4 GB: `rm -rf` of it is
all the cleaning there is.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlparse

ROOT = Path(__file__).parents[2]
KEPT = Path(os.environ.get("OCTO_CONTAINERS", "/var/tmp/megatron-octo-containers"))
BUILDAH = ("buildah", "--root", KEPT / "storage", "--runroot", KEPT / "run", "--storage-driver", "overlay")
#: Debian 12 with its Python 3.11 and pip; stands for the Dockerfile's `python:3.11-slim-bookworm`.
STAND_IN = "localhost/debian-python:3.11"
PACKAGES = ("python3", "python3-venv", "python3-pip", "ca-certificates")
#: On two busy cores debootstrap takes up to three minutes and the build four.
BUILD_SECONDS = 1800
#: Processes of a build see this machine's network, and no other part of it.
ISOLATION = ("--isolation", "chroot")


def missing() -> str | None:
    """Why this machine cannot build, or None."""
    return None if os.geteuid() == 0 and shutil.which("apt-get") else "building images needs root on Debian"


def install() -> None:
    """Debian's buildah and debootstrap, where they are missing."""
    if not all(map(shutil.which, ("buildah", "debootstrap"))):
        ask("apt-get", "update", "--quiet=2")
        ask("apt-get", "install", "--yes", "--quiet=2", "--no-install-recommends", "buildah", "debootstrap")


def stand_in() -> None:
    """Make the image that the build starts from, once."""
    if STAND_IN in ask(*BUILDAH, "images", "--format", "{{.Name}}:{{.Tag}}").split():
        return
    root = KEPT / "debian"
    shutil.rmtree(root, ignore_errors=True)
    ask("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", "bookworm", root)
    # The image of Python has `python` and a pip that installs into the system.
    (root / "usr" / "lib" / "python3.11" / "EXTERNALLY-MANAGED").unlink()
    (root / "usr" / "local" / "bin" / "python").symlink_to("/usr/bin/python3")
    container = ask(*BUILDAH, "from", "scratch").strip()
    ask(*BUILDAH, "add", "--quiet", container, root, "/")
    ask(*BUILDAH, "commit", "--quiet", "--rm", "--format", "docker", container, STAND_IN)
    shutil.rmtree(root)


def build(target: str, **arguments: str) -> str:
    """Build one stage of the Dockerfile as it is; the image's name."""
    image = f"localhost/megatron-octo:{target}"
    options = [f"--build-arg={name}={value}" for name, value in arguments.items()]
    mounts = [f"--volume={mount}" for mount in pip_mounts(KEPT)]
    # Without --layers: buildah 1.28 takes a kept layer also where the file that its RUN mounts has changed since (tried).
    what = ("--format", "docker", "--target", target, "--tag", image)
    ask(*BUILDAH, "rm", "--all")  # of a build that failed, which would keep its images from being removed
    ask(*BUILDAH, "build", *ISOLATION, *what, *options, *mounts, ROOT)
    ask(*BUILDAH, "rmi", "--prune")
    return image


def run(image: str, *words: object, mounts: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> str:
    """A command in a new container of `image`, as the image's own user; what it prints."""
    container = ask(*BUILDAH, "from", "--pull-never", image).strip()
    options = [f"--volume={mount}" for mount in mounts]
    options += [f"--env={name}={value}" for name, value in (environment or {}).items()]
    try:
        return ask(*BUILDAH, "run", *ISOLATION, *options, container, "--", *words)
    finally:
        ask(*BUILDAH, "rm", container)


def ask(*words: object) -> str:
    done = subprocess.run(
        [str(word) for word in words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
    )  # fmt: skip
    assert done.returncode == 0, f"{words[:3]}: {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def pip_mounts(directory: Path) -> Iterator[str]:
    """This machine's pip configuration, for the build alone: an index of its own reaches pip there and no file of the image."""
    settings = {}
    for line in ask(sys.executable, "-m", "pip", "config", "list").splitlines():
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = value.strip("'\"")
    file = directory / "pip.conf"
    file.write_text(
        "".join(f"{line}\n" for line in ("[global]", *(f"{name} = {value}" for name, value in settings.items())))
    )
    yield f"{file}:/etc/pip.conf:ro"
    places = {place for value in settings.values() for word in value.split() if (place := _local(word)) is not None}
    yield from (f"{place}:{place}:ro" for place in sorted(places))


def _local(word: str) -> Path | None:
    """What a setting names on this machine; the files of an index on disk lie beside its pages."""
    url = urlparse(word)
    path = Path(url.path)
    if url.scheme not in ("", "file") or not path.is_absolute() or not path.exists():
        return None
    return path.parent if url.scheme == "file" else path
