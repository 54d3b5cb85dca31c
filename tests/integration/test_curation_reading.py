"""Reading killed on the way, and by several processes and tasks, gives the bytes of an unbroken run by one."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_octo import artifacts, jsonl
from megatron_octo.config import to_dict
from megatron_octo.curation.config import Reading

PARTS = 4
TEXT = (
    "Number {} is a page about proofs, and it says in good English what there is to say about them, for as long as it takes to be "
    "kept by all the rules, with $x_{{{}}}^2$ and a picture or two. "
)
HTML = "<html><body><nav><a href='/'>Home</a></nav><article><p>{}</p><p>10<sup>6</sup> and <math><mi>&alpha;</mi></math></p></article></body></html>"


def corpus(directory: Path, num_pages: int) -> Path:
    """HTML in as many files as parts, a bad line in each."""
    directory.mkdir()
    for number in range(PARTS):
        pages = [{"text": HTML.format(TEXT.format(number, page) * 5)} for page in range(num_pages)]
        jsonl.replace(directory / f"{number}.jsonl", [*pages[:7], {"nothing": number}, *pages[7:]])
    return directory


def start(config: Reading, out: Path) -> "subprocess.Popen[bytes]":
    file = out.with_name(f"{out.name}.{config.task}.json")
    artifacts.write_json(file, to_dict(config))
    command = [sys.executable, "-m", "megatron_octo.curation.raw.reading_run", str(file), str(out)]
    return subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)


def outputs(out: Path) -> dict[str, str]:
    found: dict[str, str] = artifacts.finished(out)["outputs"]
    return found


@pytest.mark.slow
def test_killed_and_shared_reading_gives_the_same_bytes(tmp_path: Path) -> None:
    one = Reading(inputs=(corpus(tmp_path / "raw", 1_500),), is_html=True, parts=PARTS)
    assert start(one, tmp_path / "one").wait(300) == 0
    assert artifacts.finished(tmp_path / "one")["counts"]["kept_documents"] == PARTS * 1_500
    assert artifacts.finished(tmp_path / "one")["counts"]["rows_dropped_bad_row"] == PARTS

    killed = tmp_path / "killed"
    first = start(dataclasses.replace(one, workers=2), killed)
    # Some part is finished and another under way.
    marks = killed / "logs" / "documents" / "completions"
    while first.poll() is None and not list(marks.glob("*")):
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    assert first.wait(60) == -signal.SIGKILL
    assert not artifacts.is_done(killed)
    assert start(dataclasses.replace(one, workers=2), killed).wait(300) == 0
    assert outputs(killed) == outputs(tmp_path / "one")

    tasks = [start(dataclasses.replace(one, tasks=2, task=task), tmp_path / "tasks") for task in range(2)]
    assert [task.wait(300) for task in tasks] == [0, 0]
    assert outputs(tmp_path / "tasks") == outputs(tmp_path / "one")
    assert artifacts.finished(tmp_path / "tasks")["counts"] == artifacts.finished(tmp_path / "one")["counts"]
