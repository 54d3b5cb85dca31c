"""A curation for tests: the tiny web, a chat server of the test's own; and what came of it."""

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from megatron_octo import recipes
from megatron_octo.artifacts import read_mark
from megatron_octo.curation import documents
from megatron_octo.curation.config import Curation
from megatron_octo.curation.language_model.stand_in import MODEL
from megatron_octo.servers import Server

HERE = Path(__file__).parent
STEPS = (
    "web",
    "documents",
    "annotations",
    "classifier",
    "relevant",
    "signatures",
    "duplicates",
    "unique",
    "refined",
    "corpus",
)
#: Where the recipe below finds the server.
URL = "OCTO_TEST_CHAT_URL"


def recipe() -> Curation:
    """`tiny.curation` with the test's server, or with the product's stand-in where there is none."""
    found = recipes.load("tiny.curation")
    assert isinstance(found, Curation)
    assert found.refinement is not None
    if URL not in os.environ:
        return found
    server = Server(url=os.environ[URL], model=MODEL, concurrency=8)
    model = dataclasses.replace(found.annotation.model, server=server)
    return dataclasses.replace(
        found,
        annotation=dataclasses.replace(found.annotation, model=model),
        refinement=dataclasses.replace(found.refinement, model=model),
    )


def command(out: Path, *words: object) -> list[str]:
    """`megatron-octo curate` with this recipe."""
    return [
        sys.executable,
        "-m",
        "megatron_octo.cli",
        "curate",
        "tiny_curation:recipe",
        "--out",
        str(out),
        *map(str, words),
    ]


def environment(url: str | None) -> dict[str, str]:
    """For a process that runs the recipe."""
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    # Without git: a data set card names the commits of the steps, and somebody may commit between two of them.
    fixed = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "GIT_DIR": os.devnull}
    return os.environ | fixed | ({URL: url} if url else {})


def kill_tree(root: "subprocess.Popen[Any]") -> None:
    """SIGKILL for a process and all that it started, none of which gets to say a word in between."""
    if root.poll() is not None:  # its number may be another's by now
        return
    family = {root.pid}
    while True:
        for pid in family:
            _signal(pid, signal.SIGSTOP)
        found = family.union(*map(_children, family))
        if found == family:
            break
        family = found
    for pid in family:
        _signal(pid, signal.SIGKILL)
    root.wait()


def _children(pid: int) -> set[int]:
    try:
        return {child.pid for child in psutil.Process(pid).children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def wait_until(reached: Callable[[], bool], running: "subprocess.Popen[Any]", *, seconds: float) -> None:
    """Return when `reached`; fails where the process ends before."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert running.poll() is None, f"the run ended ({running.returncode}) before it could be killed"
        assert time.monotonic() < deadline, "the moment to kill never came"
        time.sleep(0.005)


def made(out: Path) -> dict[str, str]:
    """sha256 of all that the steps made, by path; not what they say about themselves."""
    return {
        file.relative_to(out).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for step in STEPS
        for file in sorted((out / step).rglob("*"))
        if file.is_file() and not _is_aside(file.relative_to(out / step))
    }


def _is_aside(file: Path) -> bool:
    return file.parts[0] in ("logs", "stage.json") or any(part.startswith(".") for part in file.parts)


def counts(out: Path) -> dict[str, Mapping[str, Any]]:
    """What every step counted."""
    return {step: mark["counts"] for step in STEPS if (mark := read_mark(out / step)) is not None}


def metadata(stage: Path) -> Iterator[Mapping[str, Any]]:
    """Of all documents of a step."""
    for part in range(len(list((stage / "documents").glob("*.jsonl.zst")))):
        yield from (document.metadata for document in documents.read(stage, part))


def planted(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "web" / "planted.json").read_text())
    return found
