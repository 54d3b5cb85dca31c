"""The mini cluster as its user and its administrator meet it: squeue, scontrol, nodes that crash, processes that stay behind."""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

SCRIPT = Path(__file__).with_name("mini_slurm.sh")
#: A job that was preempted, or whose node failed, comes back.
OVER = {"CANCELLED", "COMPLETED", "FAILED", "TIMEOUT"}
#: On the same node at once, a requeued job still meets what ends its first session ("Job credential revoked").
SETTLING_SECONDS = 2.5
#: Much more than anything here takes on an idle machine.
PATIENCE_SECONDS = 900.0


class MiniSlurm:
    """Real daemons on this machine: two nodes with a network and processes of their own."""

    def __init__(self, settings: dict[str, str]) -> None:
        self.settings = os.environ | settings
        #: Requeued jobs and when they were first seen.
        self.delayed: dict[str, float] = {}

    def call(self, *words: str) -> str:
        """`mini_slurm.sh` with these words; what it prints."""
        done = subprocess.run(
            ["bash", SCRIPT, *words], env=self.settings, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def jobs(self) -> dict[str, list[str]]:
        """State, reason and nodes of every job, also of those that are over, by id."""
        lines = ask("squeue", "--noheader", "--states=all", "--format=%i|%T|%r|%N").splitlines()
        return {id_: rest for id_, *rest in (line.split("|") for line in lines)}

    def alive(self) -> list[str]:
        """Jobs that run or will run."""
        return [id_ for id_, (state, *_) in self.jobs().items() if state not in OVER]

    def wait(self, until: Callable[[], object], *, seconds: float = PATIENCE_SECONDS) -> None:
        """Until something holds. What was requeued starts at once: Slurm would leave it alone for two minutes."""
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, ask("squeue", "--states=all")
            self.hurry()
            time.sleep(0.3)

    def hurry(self) -> None:
        now = time.monotonic()
        delayed = [
            id_ for id_, (state, reason, _) in self.jobs().items() if (state, reason) == ("PENDING", "BeginTime")
        ]
        self.delayed = {id_: self.delayed.get(id_, now) for id_ in delayed}
        for id_, since in self.delayed.items():
            if now - since >= SETTLING_SECONDS:
                subprocess.run(["scontrol", "update", f"JobId={id_}", "StartTime=now"], check=False)

    def wait_for(self, ids: Sequence[str]) -> None:
        """Until Slurm says of each of these jobs, and of each task of an array, that it is over."""
        self.wait(lambda: not {id_.partition("_")[0] for id_ in self.alive()} & set(ids))


def ask(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def exit_code(job: str) -> str:
    """As Slurm keeps it, `0:0` after a good end."""
    return field(job, "ExitCode")


def field(job: str, name: str) -> str:
    words = ask("scontrol", "--oneliner", "show", "job", job).split()
    return next(word.partition("=")[2] for word in words if word.startswith(f"{name}="))


def left_of(jobs: Sequence[str]) -> list[str]:
    """Command lines of what still runs of these jobs, on this machine and so on all nodes."""
    marks = [f"SLURM_JOB_ID={id_}".encode() for id_ in jobs]
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "environ").read_bytes().split(b"\0")
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # gone meanwhile
            continue
        if any(mark in words for mark in marks):
            found.append(line)
    return found
