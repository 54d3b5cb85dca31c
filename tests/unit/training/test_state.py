"""The state file and the signals that end a run."""

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from megatron_octo import artifacts
from megatron_octo.errors import ArtifactError
from megatron_octo.training import state
from megatron_octo.training.state import Reason, StopSignal

PLACE: dict[str, Any] = {"step": 3, "tokens": 192, "total_tokens": 1192, "checkpoint": "iter_0000003"}


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    before = time.time()
    state.write(tmp_path, reason=Reason.SIGNAL, detail="SIGTERM", **PLACE)
    found = state.read(tmp_path)
    assert found is not None
    assert (found.reason, found.step, found.tokens, found.total_tokens) == (Reason.SIGNAL, 3, 192, 1192)
    assert (found.checkpoint, found.detail) == ("iter_0000003", "SIGTERM")
    assert (found.host, found.pid) == (socket.gethostname(), os.getpid())
    written = time.mktime(time.strptime(found.written_at, "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
    assert int(before) <= written <= time.time()


def test_a_run_that_wrote_none_has_none(tmp_path: Path) -> None:
    assert state.read(tmp_path) is None


def test_the_reason_alone_leaves_the_place_as_it_was(tmp_path: Path) -> None:
    state.write(tmp_path, reason=Reason.RUNNING, detail=None, **PLACE)
    state.give_reason(tmp_path, Reason.HUNG, "rank 1 hangs")
    found = state.read(tmp_path)
    assert found is not None
    assert (found.reason, found.detail, found.step, found.checkpoint) == (
        Reason.HUNG, "rank 1 hangs", 3, "iter_0000003",
    )  # fmt: skip


def test_the_reason_alone_is_enough_before_the_first_state(tmp_path: Path) -> None:
    state.give_reason(tmp_path, Reason.HUNG, "rank 1 hangs")
    found = state.read(tmp_path)
    assert found is not None
    assert (found.reason, found.step, found.checkpoint, found.pid) == (Reason.HUNG, 0, None, os.getpid())


@pytest.mark.parametrize("text", ["{", "[]", '{"reason": "tired"}', '{"reason": "signal"}'])
def test_another_file_of_that_name_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / state.FILE).write_text(text)
    with pytest.raises(ArtifactError, match=r"state\.json is not the state of a run"):
        state.read(tmp_path)


def test_it_does_not_enter_the_hashes_of_the_outputs(tmp_path: Path) -> None:
    state.write(tmp_path, reason=Reason.FINISHED, detail=None, **PLACE)
    assert artifacts.hash_tree(tmp_path) == {}


def test_a_state_that_cannot_be_written_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logs").write_text("a file in the way")
    state.write(tmp_path, reason=Reason.SAVE_FAILED, detail="disk full", **PLACE)
    assert "could not be written" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_step_goes_on(number: signal.Signals) -> None:
    with StopSignal() as stop:
        assert stop.received is None
        signal.raise_signal(number)
        assert stop.received == number.name


def test_one_request_may_be_told_twice() -> None:
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.received == "SIGTERM"


def test_a_second_request_is_obeyed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "ONE_REQUEST_SECONDS", 0.01)
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.02)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.received == "SIGTERM"


def test_the_handlers_of_before_come_back() -> None:
    before = [signal.getsignal(number) for number in state.SIGNALS]
    with StopSignal():
        assert [signal.getsignal(number) for number in state.SIGNALS] != before
    assert [signal.getsignal(number) for number in state.SIGNALS] == before
