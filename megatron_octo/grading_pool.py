"""Whether math-verify takes two answers for the same, asked from any thread, and answered within `HARD_TIMEOUT_SECONDS`.

Workers are processes of `grading_server.py` made when needed and kept. As many answers as
`graders()` are looked at together; one that takes longer than `BRIEF_SECONDS` gives its place away and goes on beside the others, so
that nobody waits for answers that never end.
"""

import atexit
import contextlib
import functools
import json
import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass

from megatron_octo.errors import ConfigError, ResourceError

#: Answers looked at together; None in the environment takes half of the processors, at most eight, beside the model.
GRADERS = "MEGATRON_OCTO_GRADERS"
#: The sum of what follows: waiting for a place, and for a worker's word or end (it has `grading_server.ANSWER_SECONDS`).
HARD_TIMEOUT_SECONDS = 6.0
PLACE_SECONDS = 2.0
BRIEF_SECONDS = 0.1
WORKER_SECONDS = 3.7
#: The import of sympy takes a second, and more on a busy file system.
START_SECONDS = 120.0


@dataclass(frozen=True)
class Verdict:
    """What math-verify says; an answer without one in time is not equal."""

    equal: bool
    timeout: bool = False


def verify(gold: str, answer: str) -> Verdict:
    """Ask a worker. Raises `ResourceError` where none can be started and `ConfigError` for `GRADERS`, which no answer causes."""
    pool = _pool()
    has_place = pool.places.acquire(timeout=PLACE_SECONDS)
    try:
        worker = pool.ask(gold, answer)
        reply = _reply(worker, BRIEF_SECONDS)
    finally:
        if has_place:
            pool.places.release()
    if reply is None:
        reply = _reply(worker, WORKER_SECONDS)
    if not reply:
        worker.close()
        return Verdict(equal=False, timeout=True)
    pool.idle.append(worker)
    return Verdict(equal=reply == b"1")


def start() -> None:
    """Have the server running; otherwise the first answer that needs it waits for that."""
    _pool()


def graders() -> int:
    """Answers looked at together. Raises `ConfigError` for an environment variable that is no number above 0."""
    given = os.environ.get(GRADERS)
    if given is None:
        return max(1, min(8, (os.cpu_count() or 1) // 2))
    if not given.isdecimal() or int(given) < 1:
        raise ConfigError(f"{GRADERS} is '{given}'; it must be a number above 0, or not set")
    return int(given)


def _reply(worker: socket.socket, seconds: float) -> bytes | None:
    """One byte; empty from a worker that has ended, None from one that is still busy."""
    worker.settimeout(seconds)
    try:
        return worker.recv(1)
    except TimeoutError:
        return None
    except OSError:
        return b""


class _Pool:
    """The server and the workers that have nothing to do."""

    def __init__(self) -> None:
        self.places = threading.BoundedSemaphore(graders())
        self.idle: list[socket.socket] = []
        self.control, self.server = _start_server()

    def ask(self, gold: str, answer: str) -> socket.socket:
        """Hand a question to an idle worker or a new one."""
        question = json.dumps([gold, answer]).encode() + b"\n"
        while True:
            try:
                worker = self.idle.pop()
            except IndexError:
                break
            if _send(worker, question):
                return worker
        worker = self._new_worker()
        _send(worker, question)
        return worker

    def _new_worker(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        # A server that has just ended leaves a worker without a word: `theirs` closes.
        with theirs, contextlib.suppress(OSError):
            socket.send_fds(self.control, [b"W"], [theirs.fileno()])
        return ours

    def stop(self) -> None:
        for connection in (self.control, *self.idle):
            connection.close()
        # A process forked from this one may still hold the control socket open.
        self.server.terminate()
        self.server.wait()


def _send(worker: socket.socket, question: bytes) -> bool:
    """False where the worker is no more."""
    try:
        worker.sendall(question)
    except OSError:
        worker.close()
        return False
    return True


def _start_server() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair()
    # The same modules as here, wherever a launcher has put them.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-P", "-m", "megatron_octo.grading_server"]
    with theirs:
        server = subprocess.Popen(command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=environment)
    if not _reply(ours, START_SECONDS):
        server.kill()
        raise ResourceError(
            f"the grading process did not start in {START_SECONDS:.0f} s (exit code {server.wait()}); run "
            f"'{' '.join(command)} < /dev/null' to see why, and pip install megatron-octo[cpu] where math-verify is missing"
        )
    return ours, server


_lock = threading.Lock()


@functools.cache
def _make_pool() -> _Pool:
    pool = _Pool()
    atexit.register(pool.stop)
    return pool


def _pool() -> _Pool:
    """The pool of this process; a new one where its server has been ended from outside."""
    with _lock:
        pool = _make_pool()
        if pool.server.poll() is not None:
            _make_pool.cache_clear()
            pool = _make_pool()
        return pool


def _forget() -> None:
    """A forked process must not share its parent's workers, and its lock may have been held."""
    global _lock
    _lock = threading.Lock()
    _make_pool.cache_clear()


os.register_at_fork(after_in_child=_forget)
