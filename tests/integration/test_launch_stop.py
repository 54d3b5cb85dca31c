"""An interrupted launcher waits for a stage that is saving, however long that takes; interrupted again, it does not."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

#: A stage that needs its time to leave: it saves for as many seconds as its config says.
STAGE = """
import dataclasses, os, pathlib, signal, time
from megatron_octo import process

@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    saving_seconds: float

def run(config, out, force):
    signal.signal(signal.SIGTERM, lambda *_: save(config.saving_seconds, out))
    out.mkdir(exist_ok=True)
    (out / f"starting{os.environ['RANK']}").write_text(str(os.getpid()))
    (out / f"starting{os.environ['RANK']}").rename(out / f"started{os.environ['RANK']}")
    while True:
        time.sleep(0.01)

def save(seconds, out):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (out / f"saving{os.environ['RANK']}").touch()
    time.sleep(seconds)
    (out / f"saved{os.environ['RANK']}").touch()
    raise SystemExit(process.EXIT_INTERRUPTED)

if __name__ == "__main__":
    raise SystemExit(process.main(run, Settings))
"""
#: The launcher as the command starts it, with less patience.
LAUNCHER = """
import dataclasses, sys
from pathlib import Path
from megatron_octo import process
from megatron_octo.launch import local
from megatron_octo.launch.jobs import Job

@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    saving_seconds: float

local.GRACE_SECONDS = 0.5
local.PATIENCE_SECONDS = 0.2
root, seconds = Path(sys.argv[1]), float(sys.argv[2])
job = Job(name="train/a", module="slow_to_leave", config=Settings(saving_seconds=seconds), out=root / "out", logs=root / "logs",
          ranks=2)
raise SystemExit(process.exit_code(lambda: local.run([job], cores=2)))
"""
#: Longer than the launcher waits for what it kills.
SAVING_SECONDS = 2.0
WAITS = "waiting for train/a to end a step and save; interrupt again to kill\n"
ENDED = "interrupted; run the same command again to continue\n"

Launch = Callable[[float], "subprocess.Popen[str]"]


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launch]:
    """Start a launcher whose two ranks wait, and need so many seconds to leave."""
    (tmp_path / "slow_to_leave.py").write_text(STAGE)
    (tmp_path / "launcher.py").write_text(LAUNCHER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    started: list[subprocess.Popen[str]] = []

    def start(saving_seconds: float) -> "subprocess.Popen[str]":
        line = [sys.executable, str(tmp_path / "launcher.py"), str(tmp_path), str(saving_seconds)]
        started.append(subprocess.Popen(line, stderr=subprocess.PIPE, text=True))
        assert wait_for(tmp_path, "started") == 2
        return started[0]

    yield start
    for process in started:
        process.kill()
        for file in (tmp_path / "out").glob("started?"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(file.read_text()), signal.SIGKILL)
        process.communicate()


def wait_for(root: Path, what: str, seconds: float = 30) -> int:
    """Wait until both ranks left a note; how many did."""
    deadline = time.monotonic() + seconds
    while (found := len(list((root / "out").glob(f"{what}?")))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def any_alive(root: Path) -> bool:
    return any(Path("/proc", file.read_text()).exists() for file in (root / "out").glob("started?"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_launcher_waits_for_a_stage_that_saves(
    tmp_path: Path, launch: Launch, number: signal.Signals
) -> None:
    launcher = launch(SAVING_SECONDS)
    launcher.send_signal(number)
    _, said = launcher.communicate(timeout=60)
    assert (launcher.returncode, said) == (130, WAITS + ENDED)
    assert wait_for(tmp_path, "saved", seconds=0) == 2
    assert not any_alive(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_again_it_kills(tmp_path: Path, launch: Launch, number: signal.Signals) -> None:
    launcher = launch(600)
    launcher.send_signal(number)
    assert wait_for(tmp_path, "saving") == 2
    began = time.monotonic()
    launcher.send_signal(number)
    _, said = launcher.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert launcher.returncode == 130
    assert said.endswith(ENDED)
    assert wait_for(tmp_path, "saved", seconds=0) == 0
    assert not any_alive(tmp_path)


def test_a_quick_stage_is_not_waited_for_aloud(tmp_path: Path, launch: Launch) -> None:
    launcher = launch(0)
    launcher.send_signal(signal.SIGINT)
    _, said = launcher.communicate(timeout=60)
    assert (launcher.returncode, said) == (130, ENDED)
    assert wait_for(tmp_path, "saved", seconds=0) == 2
