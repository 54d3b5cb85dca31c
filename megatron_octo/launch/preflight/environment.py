"""Checks of what a place names: environment file, image, mounts, interpreter, account. Part of `submission.py`."""

import re
import shlex
from collections.abc import Iterator, Sequence

from megatron_octo import artifacts
from megatron_octo.errors import ConfigError, ResourceError, nearest
from megatron_octo.launch import training_environment
from megatron_octo.launch.jobs import Job
from megatron_octo.launch.place import Container, Place
from megatron_octo.launch.preflight.checklist import Check, fail, ok, unknown, warn
from megatron_octo.launch.slurm import ssh

#: A first directory with a dot is a registry to people, and a name on Docker Hub to enroot, which wants `#` behind a registry.
REGISTRY_WITHOUT_HASH = re.compile(r"(docker://)?[\w-]+(\.[\w-]+)+(:\d+)?/[^#]*")
#: Other users' access: an environment file has none.
OTHERS = 0o077


def checks(place: Place, jobs: Sequence[Job]) -> list[Check]:
    containers = {one for job in jobs if (one := place.container_of(job.module)) is not None}
    found = [_git(), *_environment_file(place), *_variables(place, jobs), _account(place)]
    for container in containers:
        found += _container(container, place)
    pythons = {place.python_of(job.module) for job in jobs if place.container_of(job.module) is None}
    return [*found, *(_python(python, place) for python in sorted(pythons))]


def _git() -> Check:
    commit = artifacts.git_commit()
    if commit is None:
        return ok("git", "an installed package, no working tree")
    if commit.endswith("+changes"):
        return warn("git", f"{commit}: edited since", "commit first, so that the record of the run says what ran")
    return ok("git", commit)


def _environment_file(place: Place) -> list[Check]:
    if place.environment_file is None:
        return []
    what, file = "environment file", str(place.environment_file)
    # `~` is the home over there; root may read everything, so permissions are read rather than tried.
    script = 'case $1 in "~/"*) f=$HOME/${1#"~/"};; *) f=$1;; esac; stat -L -c "%a %U" -- "$f" && id -un'
    answer = ssh.run(place.ssh, ["sh", "-c", script, "sh", file])
    if answer.returncode != 0:
        return [fail(what, f"{file} is not there", "make it with mode 600, or mend `environment_file` in the place")]
    mode, owner, me = answer.stdout.split()
    if owner != me:
        return [fail(what, f"{file} belongs to {owner}", f"make one of {me}'s: jobs source it")]
    if int(mode, 8) & OTHERS:
        return [fail(what, f"{file} has mode {mode}: others can read what is secret", f"chmod 600 {shlex.quote(file)}")]
    return [ok(what, f"{file}, mode {mode}")]


def _variables(place: Place, jobs: Sequence[Job]) -> Iterator[Check]:
    """What is set here and would end a job that sbatch hands it to; behind ssh it is another shell's, and setup.sh looks."""
    try:
        for job in jobs if place.ssh is None else ():
            training_environment.require(job)
    except ConfigError as error:
        yield fail("environment", str(error), "in this shell: sbatch hands it on to the job")


def _container(container: Container, place: Place) -> Iterator[Check]:
    yield _image(container.image, place)
    for mount in container.mounts:
        source = mount.split(":")[0]
        if len(mount.split(":")) < 2:
            yield fail("mount", f"'{mount}' names no target", "write SOURCE:TARGET or SOURCE:TARGET:ro")
        elif _exists(source, place):
            yield ok("mount", mount)
        else:
            yield fail("mount", f"{source} is not there", "make it, or mend container.mounts in the place")


def _image(image: str, place: Place) -> Check:
    if image.startswith(("/", ".", "~")) or image.endswith(".sqsh"):
        if _exists(image, place):
            return ok("image", image)
        return fail(
            "image", f"{image} is not there", f"make it with 'enroot import --output {shlex.quote(image)} docker://...'"
        )
    if REGISTRY_WITHOUT_HASH.fullmatch(image):
        meant = image.removeprefix("docker://").replace("/", "#", 1)
        return fail("image", f"{image}: enroot looks for that on Docker Hub", f"write {meant}")
    remedy = "every job pulls it; 'enroot import' once, and name the .sqsh file, spares that"
    return unknown("image", f"{image}: in a registry, which was not asked", remedy)


def _python(python: str, place: Place) -> Check:
    what = "python"
    answer = ssh.run(place.ssh, ["sh", "-c", 'exec "$0" -c "import megatron_octo"', python])
    if answer.returncode == 0:
        return ok(what, f"{python} has this package")
    said = (answer.stderr.strip().splitlines() or ["no answer"])[-1]
    remedy = "install it there, or mend `python` and `pythons`; fine if only the nodes have it, or the environment file finds it"
    return warn(what, f"{python} on the login node: {said}", remedy)


def _account(place: Place) -> Check:
    what = "account"
    if place.account is None:
        return ok(what, "Slurm's default")
    if not place.accounting:
        return unknown(what, f"{place.account}: without sacctmgr only sbatch can tell")
    question = ["sacctmgr", "--noheader", "--parsable2", "show", "associations", "format=account,user"]
    try:
        answer = ssh.run(place.ssh, ["sh", "-c", f'{shlex.join(question)} user="$(id -un)"'])
    except ResourceError as error:
        return unknown(what, str(error))
    mine = sorted({line.split("|")[0] for line in answer.stdout.splitlines() if line.strip()})
    if answer.returncode != 0 or not mine:
        return unknown(
            what, f"{place.account}: sacctmgr names none", "set `accounting: false` where there is no accounting"
        )
    if place.account not in mine:
        return fail(
            what, f"'{place.account}' is none of yours{nearest(place.account, mine)}", "mend `account` in the place"
        )
    return ok(what, place.account)


def _exists(path: str, place: Place) -> bool:
    return ssh.run(place.ssh, ["test", "-e", path]).returncode == 0
