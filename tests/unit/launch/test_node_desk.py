"""Ranks that report to rank 0, each over a connection of its own."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from megatron_octo.launch.node.desk import Desk, Findings, Line, Plan, connected, free_port
from megatron_octo.launch.node.links import Link
from megatron_octo.launch.node.shared import SharedDirectory
from megatron_octo.launch.node.verdict import Report


def plan(reports: Sequence[Report]) -> Plan:
    return Plan(backend=None, port=1, nodes=tuple((report.rank,) for report in reports))


@contextmanager
def desk(world_size: int, seconds: float) -> Iterator[tuple[Desk, int]]:
    port = free_port()
    opened = Desk(world_size=world_size, port=port, plan=plan, deadline=time.monotonic() + seconds)
    try:
        yield opened, port
    finally:
        opened.close()


def take_part(port: int, rank: int, plans: dict[int, Plan]) -> None:
    with connected("127.0.0.1", port, deadline=time.monotonic() + 5) as line:
        plans[rank] = line.report(Report(rank=rank, host=f"node{rank}", clock_ahead=line.clock_ahead()))
        line.tell(Findings(rank=rank, all_reduce=float(rank)))


def come(port: int, ranks: Sequence[int]) -> dict[int, Plan]:
    """All of them at once; the plans that they were told."""
    plans: dict[int, Plan] = {}
    threads = [threading.Thread(target=take_part, args=(port, rank, plans)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return plans


def test_all_are_told_the_same_once_all_have_come() -> None:
    with desk(3, seconds=30) as (opened, port):
        started = time.monotonic()
        plans = come(port, [2, 0, 1])
        opened.wait_for_findings(5)
    assert time.monotonic() - started < 10
    assert plans == dict.fromkeys(range(3), Plan(backend=None, port=1, nodes=((0,), (1,), (2,))))
    assert {rank: found.all_reduce for rank, found in opened.findings.items()} == {0: 0.0, 1: 1.0, 2: 2.0}
    assert all(abs(report.clock_ahead) < 0.5 for report in opened.reports.values())


def test_who_comes_late_has_not_come_and_is_told_so() -> None:
    with desk(3, seconds=0.5) as (opened, port):
        assert come(port, [0, 1]).keys() == {0, 1}
        late = come(port, [2])
        assert opened.reports.keys() == {0, 1}
    assert late[2].nodes == ((0,), (1,))


def test_strangers_get_no_answer_and_do_no_harm() -> None:
    with desk(1, seconds=30) as (opened, port):
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.settimeout(5)
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert stranger.recv(100) == b""
        assert come(port, [0]).keys() == {0}
        assert opened.reports.keys() == {0}


def test_rank_0_may_open_after_the_others() -> None:
    port = free_port()
    plans: dict[int, Plan] = {}
    early = threading.Thread(target=take_part, args=(port, 1, plans))
    early.start()
    time.sleep(0.5)
    opened = Desk(world_size=1, port=port, plan=plan, deadline=time.monotonic() + 5)
    early.join(10)
    opened.close()
    assert plans.keys() == {1}


def test_nobody_is_there() -> None:
    with pytest.raises(OSError, match="refused"), connected("127.0.0.1", free_port(), deadline=time.monotonic() + 0.3):
        pass


REPORTS = {rank: Report(rank=rank, host=f"node{rank}") for rank in range(2)}


@contextmanager
def two_ranks() -> Iterator[tuple[Desk, dict[int, Line], dict[int, contextlib.ExitStack]]]:
    """Two that have their plan, and say nothing by themselves; and what closes their lines."""
    with desk(2, seconds=30) as (opened, port), contextlib.ExitStack() as both:
        leave = {rank: both.enter_context(contextlib.ExitStack()) for rank in REPORTS}
        deadline = time.monotonic() + 5
        lines = {rank: leave[rank].enter_context(connected("127.0.0.1", port, deadline=deadline)) for rank in REPORTS}
        plans = [threading.Thread(target=line.report, args=(REPORTS[rank],)) for rank, line in lines.items()]
        for thread in plans:
            thread.start()
        for thread in plans:
            thread.join(10)
        yield opened, lines, leave


def seconds_of_waiting(opened: Desk) -> float:
    started = time.monotonic()
    opened.wait_for_findings(60)
    return time.monotonic() - started


def test_who_leaves_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megatron_octo.launch.node.desk.GONE_SECONDS", 0.5)
    with two_ranks() as (opened, _, leave):
        leave[1].close()
        assert seconds_of_waiting(opened) < 10
        assert opened.silent() == [1]  # and not 0, which hangs on it


def test_who_stops_without_a_word_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megatron_octo.launch.node.desk.HERE_SECONDS", 0.1)
    monkeypatch.setattr("megatron_octo.launch.node.desk.SILENT_SECONDS", 1.0)
    monkeypatch.setattr("megatron_octo.launch.node.desk.GONE_SECONDS", 0.5)
    with two_ranks() as (opened, lines, _):
        alive = threading.Thread(target=lines[0].stay)
        alive.start()
        assert 0.9 < seconds_of_waiting(opened) < 10
        assert opened.silent() == [1]
        opened.close()
        alive.join(10)
        assert not alive.is_alive()  # it is sent away


def test_a_broken_link_ends_the_waiting_and_tells_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megatron_octo.launch.node.desk.BROKEN_SECONDS", 0.5)
    broken = Link(nodes=(0, 1), bytes_per_second=0.0, trouble="hangs for 65 s")
    with two_ranks() as (opened, lines, _):
        lines[0].tell(broken)
        assert seconds_of_waiting(opened) < 10
        assert (opened.links, opened.silent()) == ([broken], [])


def test_who_hangs_for_no_reason_is_named_when_the_time_is_over() -> None:
    with two_ranks() as (opened, lines, _):
        lines[0].tell(Findings(rank=0))
        opened.wait_for_findings(0.5)
        assert opened.silent() == [1]


def shared(directory: Path, key: str = "7.0.1") -> SharedDirectory:
    return SharedDirectory(directory=directory, key=key, patience_seconds=0.2)


def test_a_shared_directory(tmp_path: Path) -> None:
    for rank in range(3):
        assert shared(tmp_path / "nodes").leave_word(rank) is None
    assert shared(tmp_path / "nodes").look_for_rank_0() is None
    assert shared(tmp_path / "nodes").hidden([0, 1, 2, 3]) == [3]
    assert list((tmp_path / "nodes").iterdir()) == []


def test_files_that_are_not_seen_are_waited_for_together(tmp_path: Path) -> None:
    started = time.monotonic()
    assert shared(tmp_path).hidden(range(50)) == list(range(50))
    assert time.monotonic() - started < 5  # 10 s one after another


def test_another_directory_or_an_older_file_is_not_it(tmp_path: Path) -> None:
    shared(tmp_path / "nodes", key="6.0.1").leave_word(0)
    assert (
        shared(tmp_path / "nodes").look_for_rank_0() == f"does not see in {tmp_path / 'nodes'} what rank 0 wrote there"
    )


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert shared(tmp_path / "file").leave_word(0) == f"cannot write to {tmp_path / 'file'}: File exists"
