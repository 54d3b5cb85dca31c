"""Jobs on this machine: ranks as plain processes, independent jobs side by side while cores last.

Every job of several ranks gets a free port of its own. When one rank ends badly the others are stopped, and the message says
which rank, how it ended and what it last said. A job that nothing can run beside owns the terminal and shows progress bars: the
only one, or one that needs all cores. Others run side by side and their lines carry their names.
"""

import contextlib
import enum
import fcntl
import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from megatron_octo import artifacts, packages, units
from megatron_octo.errors import ArtifactError, ResourceError
from megatron_octo.launch import training_environment
from megatron_octo.launch.jobs import Job, StageFailedError, write_config
from megatron_octo.process import (
    EXIT_HUNG,
    EXIT_INTERRUPTED,
    EXIT_USER_ERROR,
    die_with_parent,
    last_lines,
    signal_group,
)

LOCK = ".lock"
POLL_SECONDS = 0.1
#: How long a process may take to leave after SIGTERM once its job has failed.
GRACE_SECONDS = 10.0
#: Until people who interrupted a job are told what it still does.
PATIENCE_SECONDS = 2.0
#: Between the first bad end and the judgement which rank was the cause.
SETTLE_SECONDS = 0.5
LAST_LINES = 15


def run(
    jobs: Sequence[Job],
    *,
    cores: int | None = None,
    force: bool = False,
    starting: Callable[[Job], None] = write_config,
) -> None:
    """Run jobs after those they need, several at a time while their ranks fit the cores. Finished stages are skipped.

    Args:
        starting: called for each job whose processes are about to start; writes at least its config.
    Raises:
        StageFailedError: a job ended badly. What runs beside it is stopped, what finished stays.
        SystemExit: the only job refused what the user gave, and said so itself.
        ArtifactError: a stage directory was made with another config or inputs and `force` is not set; with it, such stages
            are redone and the others kept.
        ConfigError: the environment would end a job's ranks.
    """
    cores = cores or available_cores()
    waiting, finished, running = list(jobs), set[str](), list[_Running]()
    # A stage's inputs are hashed once, when all it needs is there.
    standings: dict[str, Standing] = {}
    try:
        while waiting or running:
            for job in [job for job in waiting if finished.issuperset(job.needs)]:
                if job.name not in standings:
                    standings[job.name] = _standing(job, force=force)
                if standings[job.name] is Standing.DONE:
                    waiting.remove(job)
                    finished.add(job.name)
                    _say(f"{job.name}: done before")
                elif sum(other.job.ranks for other in running) + job.ranks <= max(cores, job.ranks):
                    waiting.remove(job)
                    alone = len(jobs) == 1
                    packages.require(job.module)
                    training_environment.require(job)
                    starting(job)
                    running.append(_Running(job, cores=cores, alone=alone, force=standings[job.name] is Standing.REDO))
            for one in [one for one in running if one.poll()]:
                running.remove(one)
                finished.add(one.job.name)
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        # Training ends its step and saves: minutes, for a large model. Interrupted again, the block below ends it.
        _let_leave(running)
        raise
    finally:
        for one in running:
            one.stop()
            _forget_unless_begun(one.job)


def _forget_unless_begun(job: Job) -> None:
    """Remove what the launcher noted about a job that was refused before it made anything, unless a process left words there."""
    noted = {path for path in job.logs.glob("*") if path.suffix in (".json", ".diff")}
    if not (job.out / artifacts.MARK).exists() and set(job.logs.glob("*")) <= noted | {job.logs / LOCK}:
        for file in noted:
            file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the lock is in there: `exclusive` removes both
            job.logs.rmdir()


def _let_leave(running: "Sequence[_Running]") -> None:
    """Ask every process to stop and wait until it did."""
    for one in running:
        one.signal()
    started, told = time.monotonic(), False
    while left := [one.job.name for one in running if one.alive()]:
        if not told and time.monotonic() - started > PATIENCE_SECONDS:
            _say(f"waiting for {', '.join(left)} to end a step and save; interrupt again to kill")
            told = True
        time.sleep(POLL_SECONDS)


class Standing(enum.Enum):
    DONE = "done"
    #: To do, or to continue.
    OPEN = "open"
    #: Made with another config or other inputs, and `--force` was given.
    REDO = "redo"


def _standing(job: Job, *, force: bool) -> Standing:
    """Raises `ArtifactError` where an earlier run contradicts this one and `force` is not set."""
    if job.always_starts:
        return Standing.REDO if force else Standing.OPEN
    try:
        return Standing.DONE if artifacts.is_finished(job.out, config=job.config) else Standing.OPEN
    except ArtifactError:
        if not force:
            raise
        return Standing.REDO


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def exclusive(directory: Path, *, output: Path | None = None) -> Iterator[None]:
    """Hold a directory for this process and its children. What was made for that and not used goes again.

    Args:
        output: what the user named, where that is not the directory itself.
    Raises:
        ResourceError: another run holds it, or it cannot be made.
    """
    made = [place for place in (directory, *directory.parents) if not place.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / LOCK).open("a+")
    except OSError as error:
        raise ResourceError(
            f"{output or directory} cannot be made: {error.strerror}: {error.filename}; name an output elsewhere"
        ) from error
    with lock:
        os.set_inheritable(lock.fileno(), True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise ResourceError(
                f"{directory} is in use by process {lock.read().strip()}; wait for it or stop it"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            yield
        finally:
            _remove_unused(directory, made)


def _remove_unused(directory: Path, made: Sequence[Path]) -> None:
    """Where nothing but the lock is left, remove it and the directories that were made for it, from the inside out."""
    if [path.name for path in directory.glob("*")] == [LOCK]:
        (directory / LOCK).unlink()
        with contextlib.suppress(OSError):  # one of them is used by now
            for place in made:
                place.rmdir()


class _Running:
    """The processes of one job."""

    def __init__(self, job: Job, *, cores: int, alone: bool, force: bool) -> None:
        port = _port() if job.ranks > 1 else None
        self.job = job
        self.started = time.monotonic()
        self.alone = alone
        self.owns_terminal = alone or job.ranks >= cores
        self.for_gpus = training_environment.here(job)
        if self.for_gpus:
            _say(f"{job.name}: for its GPUs {' '.join(f'{name}={value}' for name, value in self.for_gpus.items())}")
        self.processes = [self._start(rank, port, force) for rank in range(job.ranks)]
        self.readers = [threading.Thread(target=self._relay, daemon=True)] if not self.owns_terminal else []
        for reader in self.readers:
            reader.start()

    def _start(self, rank: int, port: int | None, force: bool) -> subprocess.Popen[str]:
        job = self.job
        environment = os.environ | self.for_gpus | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        if port is not None:
            environment |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(job.ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
        process: subprocess.Popen[str] = subprocess.Popen(
            job.command(force=force),
            env=environment,
            text=True,
            preexec_fn=functools.partial(die_with_parent, os.getpid()),
            close_fds=False,
            process_group=0,  # so that `stop` reaches what the process started itself
            **self._output(rank),
        )
        return process

    def _output(self, rank: int) -> dict[str, Any]:
        """Rank 0 speaks: to the terminal, or through a pipe that puts the job's name before its lines."""
        if rank > 0:
            log = (self.job.logs / f"rank{rank}.log").open("a")  # a rerun does not erase what the last one died of
            return {"stdout": log, "stderr": log, "stdin": subprocess.DEVNULL}
        if self.owns_terminal:
            return {"stdin": subprocess.DEVNULL}
        return {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}

    def _relay(self) -> None:
        stream = self.processes[0].stdout
        assert stream is not None
        with (self.job.logs / "rank0.log").open("a") as log:
            for line in stream:
                log.write(line)
                log.flush()
                _say(f"[{self.job.name}] {line.rstrip()}")

    def poll(self) -> bool:
        """Whether the job is done. Raises `StageFailedError` when one of its ranks ended badly."""
        if self._failed():
            # The rank that died may be counted a moment after the one that lost it.
            time.sleep(SETTLE_SECONDS)
            failed = self._failed()
            self.stop()
            raise self._failure(*min(failed, key=_blame))
        if any(process.poll() is None for process in self.processes):
            return False
        self._join()
        self._require_done()
        what = "done" if artifacts.is_done(self.job.out) else "its share is done"
        _say(f"{self.job.name}: {what} in {units.duration(time.monotonic() - self.started)}")
        return True

    def _require_done(self) -> None:
        """Raises `StageFailedError` where a stage that resumes left in good order before its end: a signal told it to."""
        mark = artifacts.read_mark(self.job.out)
        if mark is not None and not mark["done"] and mark["resumable"] and not self.job.always_starts:
            raise StageFailedError(
                f"stage {self.job.name} was told to stop, saved and left; run the same command again, it continues where it stopped"
            )

    def _failed(self) -> list[tuple[int, int]]:
        """Rank and exit code of those that ended badly."""
        return [(rank, code) for rank, process in enumerate(self.processes) if (code := process.poll())]

    def signal(self) -> None:
        for process in self.processes:
            signal_group(process, signal.SIGTERM)

    def alive(self) -> bool:
        return any(process.poll() is None for process in self.processes)

    def stop(self) -> None:
        """End every process of the job, those a dead rank left behind included; what does not leave soon is killed."""
        self.signal()
        deadline = time.monotonic() + GRACE_SECONDS
        for process in self.processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except (subprocess.TimeoutExpired, KeyboardInterrupt):  # no interrupt leaves a rank behind
                signal_group(process, signal.SIGKILL)
                process.wait()
        self._join()

    def _join(self) -> None:
        for reader in self.readers:
            reader.join(timeout=1)

    def _failure(self, rank: int, code: int) -> BaseException:
        if code == EXIT_INTERRUPTED:
            return KeyboardInterrupt()
        name = self.job.name
        if code == EXIT_USER_ERROR and rank == 0 and self.alone:
            return SystemExit(EXIT_USER_ERROR)
        if code == EXIT_USER_ERROR and rank == 0:
            return StageFailedError(
                f"stage {name} stopped: see its message above; mend that and run the command again, finished stages stay"
            )
        if code == EXIT_HUNG:
            return StageFailedError(
                f"a rank of stage {name} made no progress; the message above names it, {self.job.out}/logs/stacks holds what every rank "
                "was doing; run the same command again, it continues from the newest checkpoint"
            )
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"left with exit code {code}"
        last = last_lines(self.job.logs / f"rank{rank}.log", LAST_LINES)
        said = "" if rank == 0 else "\n  ".join(["\nits last lines:", *last])
        return StageFailedError(
            f"rank {rank} of stage {name} {how}; run the same command again, it continues where it stopped{said}"
        )


def _blame(failed: tuple[int, int]) -> tuple[int, int]:
    """Sorts (rank, exit code): a rank that was killed or refused its input comes before those that lost it."""
    rank, code = failed
    return 0 if code < 0 else 1 if code in (EXIT_USER_ERROR, EXIT_INTERRUPTED) else 2, rank


def _port() -> int:
    """MASTER_PORT where the user set it, else a free one. Raises `ResourceError` when the user's is taken."""
    given = os.environ.get("MASTER_PORT", "0")
    if not given.isdecimal() or int(given) > 65535:
        raise ResourceError(f"MASTER_PORT is '{given}'; give a port number, or unset it to take a free one")
    wanted = int(given)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError as error:
            raise ResourceError(
                f"port {wanted} (MASTER_PORT) is in use; stop what listens there, or unset MASTER_PORT to take a free one"
            ) from error
        port: int = probe.getsockname()[1]
        return port


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # whoever read it is gone; the ranks must not wait for that
        print(text, file=sys.stderr, flush=True)
