"""The end of a stage as an exit code."""

import dataclasses
import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_octo import process
from megatron_octo.errors import ConfigError

#: A stage that waits to be stopped.
WAITING = """
import dataclasses, pathlib, time
from megatron_octo import process

@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    seconds: float

def run(config, out, force):
    out.touch()
    time.sleep(config.seconds)

raise SystemExit(process.main(run, Settings))
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    size: int


@pytest.fixture
def settings(tmp_path: Path) -> str:
    file = tmp_path / "config.json"
    file.write_text('{"size": 3}')
    return str(file)


@pytest.mark.parametrize("force", [False, True])
def test_a_stage_gets_its_config_directory_and_force(settings: str, tmp_path: Path, force: bool) -> None:
    seen = []
    arguments = [settings, str(tmp_path / "out"), *(["--force"] if force else [])]
    assert process.main(lambda *given: seen.append(given), Settings, argv=arguments) == 0
    assert seen == [(Settings(size=3), tmp_path / "out", force)]


def test_an_error_for_people_is_one_message(settings: str, capsys: pytest.CaptureFixture[str]) -> None:
    def run(config: Settings, out: Path, force: bool) -> None:
        raise ConfigError("size is 3; sizes are even")

    assert process.main(run, Settings, argv=[settings, "out"]) == 2
    assert capsys.readouterr().err == "error: size is 3; sizes are even\n"


def test_a_config_that_does_not_fit_is_an_error_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"sise": 3}')
    assert process.main(lambda *_: None, Settings, argv=[str(file), "out"]) == 2
    assert "unknown field 'sise'" in capsys.readouterr().err


def test_a_defect_of_ours_keeps_its_traceback(settings: str) -> None:
    with pytest.raises(ZeroDivisionError):
        process.main(lambda *_: 1 / 0, Settings, argv=[settings, "out"])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/file"), "error: No space left on device: a/file\n"),
        # As `os.write` raises it.
        (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device\n"),
    ],
)
def test_a_full_disk_is_for_people_to_mend(error: OSError, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert process.explain(error) == 2
    assert capsys.readouterr().err == said


def test_what_only_we_can_mend_is_raised_again() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        process.explain(OSError(errno.EBADF, "Bad file descriptor"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_stage_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "waiting.py").write_text(WAITING)
    (tmp_path / "config.json").write_text('{"seconds": 60}')
    out = tmp_path / "out"
    stage = subprocess.Popen(
        [sys.executable, str(tmp_path / "waiting.py"), str(tmp_path / "config.json"), str(out)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while not out.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    stage.send_signal(number)
    _, said = stage.communicate(timeout=30)
    assert (stage.returncode, said) == (130, "interrupted; run the same command again to continue\n")


@pytest.mark.parametrize(("rank", "expected"), [(None, True), ("0", True), ("3", False)])
def test_rank_zero(monkeypatch: pytest.MonkeyPatch, rank: str | None, expected: bool) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setitem(os.environ, "RANK", rank)
    assert process.is_rank_zero() is expected


@pytest.mark.parametrize(("ranks", "expected"), [(None, 1), ("4", 4)])
def test_ranks_of_a_run(monkeypatch: pytest.MonkeyPatch, ranks: str | None, expected: int) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if ranks is not None:
        monkeypatch.setenv("WORLD_SIZE", ranks)
    assert process.world_size() == expected


def test_a_run_may_open_as_many_files_as_the_system_allows() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
    try:
        process.allow_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        (b"one\ntwo\nthree\n", 2, ["two", "three"]),
        (b"one\ntwo", 5, ["one", "two"]),
        (b"", 3, []),
        (b"b\xffd\n", 1, ["b\ufffdd"]),
        # Beyond one read from the end, cut within a line and within the two bytes of a letter.
        ("é".encode() * process.TAIL_BYTES + b"x\nlast\n", 1, ["last"]),
        (
            b"first\n" + "é".encode() * process.TAIL_BYTES + b"x\nlast\n",
            2,
            ["é" * process.TAIL_BYTES + "x", "last"],
        ),
    ],
)
def test_the_last_lines_of_a_file(tmp_path: Path, text: bytes, count: int, expected: list[str]) -> None:
    (tmp_path / "log").write_bytes(text)
    assert process.last_lines(tmp_path / "log", count) == expected


def test_a_file_that_is_missing_has_no_last_lines(tmp_path: Path) -> None:
    assert process.last_lines(tmp_path / "log", 3) == []


#: Says its number and that of a child, which outlives SIGTERM to its parent alone.
FAMILY = """
import os, signal, subprocess, sys, time
if {deaf}:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep({seconds})
"""


def family(*, deaf: bool = False, seconds: float = 600) -> tuple[subprocess.Popen[str], int]:
    words = [sys.executable, "-c", FAMILY.format(deaf=deaf, seconds=seconds)]
    parent = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, process_group=0)
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


def gone(pid: int) -> bool:
    """Within ten seconds; one that ended and that nobody asked about is gone too."""
    status, deadline = Path(f"/proc/{pid}/status"), time.monotonic() + 10
    while time.monotonic() < deadline:
        if not status.exists() or "State:\tZ" in status.read_text():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(("deaf", "ended_by"), [(False, signal.SIGTERM), (True, signal.SIGKILL)])
def test_a_child_ends_with_what_it_started(deaf: bool, ended_by: signal.Signals) -> None:
    parent, child = family(deaf=deaf)
    process.end(parent, grace_seconds=0.5)
    assert parent.returncode == -ended_by
    assert gone(child)


def test_what_a_child_left_behind_ends_too() -> None:
    parent, child = family(seconds=0)
    assert parent.wait(30) == 0
    process.end(parent, grace_seconds=30)
    assert gone(child)
    process.end(parent, grace_seconds=30)  # nobody is left


def test_an_interrupt_leaves_no_child_behind() -> None:
    """Ctrl-C again while a child ends."""
    parent, child = family(deaf=True)
    signal.signal(signal.SIGALRM, process.interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    started = time.monotonic()
    process.end(parent, grace_seconds=30)
    assert time.monotonic() - started < 15
    assert (parent.returncode, gone(child)) == (-signal.SIGKILL, True)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
