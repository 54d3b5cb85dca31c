"""Where the ranks of `check.py` report: rank 0 listens, every rank holds one TCP connection. One line of JSON per message.

    rank                         rank 0
    "clock"                 ->
                            <-   seconds since 1970
    its Report              ->
                            <-   the Plan, once all ranks have come or the time is over
    its Findings            ->

Rank 0 talks to itself in the same way.
"""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from megatron_octo import config
from megatron_octo.launch.node.links import Link
from megatron_octo.launch.node.verdict import Report

CLOCK = "clock"
#: Of the clock's answers the fastest counts.
CLOCK_QUESTIONS = 5
RETRY_SECONDS = 0.2


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
    """What a rank found out with the others."""

    rank: int
    links: tuple[Link, ...] = ()
    #: Bytes/s of all ranks together.
    all_reduce: float | None = None


class Desk:
    """Rank 0's end."""

    def __init__(
        self, *, world_size: int, port: int, plan: Callable[[Sequence[Report]], Plan], deadline: float
    ) -> None:
        """`plan` makes the plan out of the reports that came by `deadline`, on the monotonic clock."""
        self.reports: dict[int, Report] = {}
        self.findings: dict[int, Findings] = {}
        self._world_size, self._make_plan, self._deadline = world_size, plan, deadline
        self._plan: Plan | None = None
        self._news = threading.Condition()
        self._listener = socket.create_server(("", port), backlog=world_size)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def wait_for_findings(self, timeout_seconds: float) -> None:
        """Until all ranks that reported in time have said what they found, or the time is over."""
        with self._news:
            self._news.wait_for(lambda: self.findings.keys() >= self.reports.keys(), timeout_seconds)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        # Whatever else knocks here is not ours and gets no answer.
        with contextlib.suppress(OSError, ValueError), connection, connection.makefile("rw") as talk:
            for line in talk:
                message = json.loads(line)
                if message == CLOCK:
                    _say(talk, time.time())
                elif "host" in message:
                    _say(talk, config.to_dict(self._take(config.from_dict(Report, message))))
                else:
                    self._note(config.from_dict(Findings, message))

    def _take(self, report: Report) -> Plan:
        with self._news:
            if self._plan is None:  # who comes later has not come
                self.reports[report.rank] = report
                self._news.notify_all()
            self._news.wait_for(self._is_decided, max(0.0, self._deadline - time.monotonic()))
            if self._plan is None:
                self._plan = self._make_plan(sorted(self.reports.values(), key=lambda one: one.rank))
                self._news.notify_all()
            return self._plan

    def _is_decided(self) -> bool:
        return self._plan is not None or len(self.reports) == self._world_size

    def _note(self, findings: Findings) -> None:
        with self._news:
            self.findings[findings.rank] = findings
            self._news.notify_all()


class Line:
    """A rank's end."""

    def __init__(self, talk: TextIO) -> None:
        self._talk = talk

    def clock_ahead(self) -> float:
        """Seconds this clock is ahead of rank 0's, to half the time of an answer."""
        answers = [self._ask_clock() for _ in range(CLOCK_QUESTIONS)]
        return min(answers)[1]

    def report(self, report: Report) -> Plan:
        """Say what this rank knows, and wait for the others."""
        _say(self._talk, config.to_dict(report))
        return config.from_dict(Plan, json.loads(self._talk.readline()))

    def found(self, findings: Findings) -> None:
        _say(self._talk, config.to_dict(findings))

    def _ask_clock(self) -> tuple[float, float]:
        """Seconds that the answer took, and seconds ahead."""
        before = time.time()
        _say(self._talk, CLOCK)
        there = float(json.loads(self._talk.readline()))
        after = time.time()
        return after - before, (before + after) / 2 - there


@contextlib.contextmanager
def connected(address: str, port: int, *, deadline: float) -> Iterator[Line]:
    """A line to rank 0, which may still have to open. Raises `OSError` when it does not by `deadline`."""
    with _connect(address, port, deadline) as connection, connection.makefile("rw") as talk:
        yield Line(talk)


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


def _say(talk: TextIO, message: Any) -> None:
    talk.write(json.dumps(message) + "\n")
    talk.flush()
