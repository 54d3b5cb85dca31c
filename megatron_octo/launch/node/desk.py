"""Where the ranks of `check.py` report: rank 0 listens, every rank holds one TCP connection. One line of JSON per message.

    rank                         rank 0
    "clock"                 ->
                            <-   seconds since 1970
    its Report              ->
                            <-   the Plan, once all ranks have come or the time is over
    every Link it measured  ->
    "here", now and then    ->
    its Findings            ->
                            <-   the end of the line, once rank 0 has heard enough

Rank 0 talks to itself in the same way. It has heard enough when all have said their findings, and else soon after a rank is gone
or a link is broken: who has to do with that may hang for ever.
"""

import contextlib
import json
import math
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from megatron_octo import config
from megatron_octo.launch.node.links import Link
from megatron_octo.launch.node.verdict import Report

CLOCK, HERE = "clock", "here"
#: Of the clock's answers the fastest counts.
CLOCK_QUESTIONS = 5
RETRY_SECONDS = 0.2
#: Between two words of a rank that it is still here, and how long it may say none: then it is stopped, or its node without power (guesses).
HERE_SECONDS, SILENT_SECONDS = 2.0, 30.0
#: Once a rank is gone the job cannot start: the others of its node may follow, and nothing else is worth waiting for (guess).
GONE_SECONDS = 5.0
#: Once a link is broken: a meeting of 60 s that hangs may be followed by one more, which tells whose fault it is (guess).
BROKEN_SECONDS = 90.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How all ranks go on once they have come."""

    #: Of torch.distributed; None measures no links.
    backend: str | None
    #: Where rank 0 waits for the others to meet.
    port: int
    #: Ranks by node.
    nodes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a rank says when it is done with all links."""

    rank: int
    #: Bytes/s of all ranks together.
    all_reduce: float | None = None


class Desk:
    """Rank 0's end."""

    def __init__(
        self, *, world_size: int, port: int, plan: Callable[[Sequence[Report]], Plan], deadline: float
    ) -> None:
        """`plan` makes the plan out of the reports that came by `deadline`, on the monotonic clock."""
        self.reports: dict[int, Report] = {}
        self.links: list[Link] = []
        self.findings: dict[int, Findings] = {}
        self._world_size, self._make_plan, self._deadline = world_size, plan, deadline
        self._plan: Plan | None = None
        self._gone: set[int] = set()
        #: When a rank last said anything, and when enough was heard, on the monotonic clock.
        self._heard: dict[int, float] = {}
        self._enough = math.inf
        self._news = threading.Condition()
        self._lines: list[socket.socket] = []
        self._listener = socket.create_server(("", port), backlog=world_size)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Nobody else is listened to, and all ranks leave."""
        self._listener.close()
        with self._news:
            for line in self._lines:
                with contextlib.suppress(OSError):  # gone
                    line.shutdown(socket.SHUT_RDWR)

    def wait_for_findings(self, timeout_seconds: float) -> None:
        """Until all ranks that reported in time have said what they found, or enough is heard, or the time is over."""
        with self._news:
            self._news.wait_for(lambda: self._plan is not None)
            self._enough_in(timeout_seconds)
            while self._missing() and time.monotonic() < self._enough:
                self._news.wait(HERE_SECONDS / 2)
                for rank in self._missing():
                    if time.monotonic() - self._heard[rank] > SILENT_SECONDS:
                        self._note_gone(rank)

    def silent(self) -> list[int]:
        """The ranks that left or hang; of those that wait for others only where nothing else tells why."""
        with self._news:
            if self._gone or any(link.trouble for link in self.links):
                return sorted(self._gone)
            return self._missing()

    def _missing(self) -> list[int]:
        return sorted(self.reports.keys() - self.findings.keys() - self._gone)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        rank = None
        # Whatever else knocks here is not ours and gets no answer.
        with contextlib.suppress(OSError, ValueError, TypeError), connection, connection.makefile("r") as lines:
            for line in lines:
                message = json.loads(line)
                if message == CLOCK:
                    _say(connection, time.time())
                elif "host" in message:
                    report = config.from_dict(Report, message)
                    rank = report.rank
                    _say(connection, config.to_dict(self._take(report, connection)))
                elif rank is not None:
                    self._note(rank, message)
        if rank is not None:
            with self._news:
                self._note_gone(rank)

    def _take(self, report: Report, connection: socket.socket) -> Plan:
        with self._news:
            self._lines.append(connection)
            if self._plan is None:  # who comes later has not come
                self.reports[report.rank] = report
                self._news.notify_all()
            self._news.wait_for(self._is_decided, max(0.0, self._deadline - time.monotonic()))
            if self._plan is None:
                self._plan = self._make_plan(sorted(self.reports.values(), key=lambda one: one.rank))
                self._heard = dict.fromkeys(self.reports, time.monotonic())
                self._news.notify_all()
            return self._plan

    def _is_decided(self) -> bool:
        return self._plan is not None or len(self.reports) == self._world_size

    def _note(self, rank: int, message: Any) -> None:
        """What a rank says once it has the plan."""
        with self._news:
            self._heard[rank] = time.monotonic()
            if message == HERE:
                return
            if "nodes" in message:
                self.links.append(config.from_dict(Link, message))
                if self.links[-1].trouble:
                    self._enough_in(BROKEN_SECONDS)
            else:
                self.findings[rank] = config.from_dict(Findings, message)
            self._news.notify_all()

    def _note_gone(self, rank: int) -> None:
        if rank in self._missing() and time.monotonic() < self._enough:  # later they are sent away
            self._gone.add(rank)
            self._enough_in(GONE_SECONDS)
            self._news.notify_all()

    def _enough_in(self, seconds: float) -> None:
        self._enough = min(self._enough, time.monotonic() + seconds)


class Line:
    """A rank's end."""

    def __init__(self, connection: socket.socket, answers: TextIO) -> None:
        self._connection, self._answers = connection, answers
        #: Whole lines, though one thread measures and another says that it is here.
        self._one_at_a_time = threading.Lock()

    def clock_ahead(self) -> float:
        """Seconds this clock is ahead of rank 0's, to half the time of an answer."""
        answers = [self._ask_clock() for _ in range(CLOCK_QUESTIONS)]
        return min(answers)[1]

    def report(self, report: Report) -> Plan:
        """Say what this rank knows, and wait for the others."""
        _say(self._connection, config.to_dict(report))
        return config.from_dict(Plan, json.loads(self._answers.readline()))

    def tell(self, news: Link | Findings) -> None:
        self._say_if_open(config.to_dict(news))

    def stay(self) -> None:
        """Until rank 0 has heard enough, or is gone."""
        while not select.select([self._connection], [], [], HERE_SECONDS)[0]:
            self._say_if_open(HERE)

    def _say_if_open(self, message: Any) -> None:
        with self._one_at_a_time, contextlib.suppress(OSError):  # rank 0 has heard enough
            _say(self._connection, message)

    def _ask_clock(self) -> tuple[float, float]:
        """Seconds that the answer took, and seconds ahead."""
        before = time.time()
        _say(self._connection, CLOCK)
        there = float(json.loads(self._answers.readline()))
        after = time.time()
        return after - before, (before + after) / 2 - there


@contextlib.contextmanager
def connected(address: str, port: int, *, deadline: float) -> Iterator[Line]:
    """A line to rank 0, which may still have to open. Raises `OSError` when it does not by `deadline`."""
    with _connect(address, port, deadline) as connection, connection.makefile("r") as answers:
        yield Line(connection, answers)


def _connect(address: str, port: int, deadline: float) -> socket.socket:
    while True:
        left = deadline - time.monotonic()
        try:
            connection = socket.create_connection((address, port), timeout=max(RETRY_SECONDS, left))
        except OSError:
            if left <= 0:
                raise
            time.sleep(RETRY_SECONDS)
        else:
            connection.settimeout(None)  # from here on rank 0 decides who is late
            return connection


def free_port() -> int:
    """A port that nobody listens at just now."""
    with socket.create_server(("", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _say(connection: socket.socket, message: Any) -> None:
    connection.sendall(f"{json.dumps(message)}\n".encode())
