"""Plain lines, as logs see them. The bar on a terminal is rich's."""

import os
import pty
import subprocess
import sys

import pytest

from megatron_octo import progress


def test_silent_until_a_line_is_due(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar("tokenize web", total=4_000, unit="documents") as advance:
        for _ in range(4):
            advance(1_000)
        assert capsys.readouterr().err == ""
    assert capsys.readouterr().err.startswith("tokenize web: 4K documents in ")


def test_a_line_with_rate_note_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 105.0, 110.0, 110.0, 112.0, 115.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.bar("stable", total=100, unit="tokens", done=20) as advance:
        advance(10, "loss 3.000")  # after 5 s: too early
        advance(10, "loss 2.000")  # after 10 s: 20 of the 80 that were left
        advance(0)
        assert capsys.readouterr().err == "stable: 40/100 tokens, 2 tokens/s, loss 2.000, 30s left\n"
    assert capsys.readouterr().err == "stable: 40 tokens in 15s\n"


def test_bytes_have_multiples_of_their_own(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 10.0, 20.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.bar("copy", total=5e9, unit="B") as advance:
        advance(2e9)
        assert capsys.readouterr().err == "copy: 2 GB/5 GB, 200 MB/s, 15s left\n"
    assert capsys.readouterr().err == "copy: 2 GB in 20s\n"


def test_an_interrupted_bar_does_not_say_it_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), progress.bar("stable", total=100, unit="tokens"):
        raise KeyboardInterrupt
    assert " in " not in capsys.readouterr().err


def test_a_bar_that_never_moved_says_nothing_odd(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 20.0, 20.0, 20.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.bar("stable", total=100, unit="tokens") as advance:
        advance(0, "waiting")
    assert "stable" in capsys.readouterr().err


@pytest.mark.parametrize(("unit", "rate"), [("documents", "K documents/s, loss 1.500"), ("B", "kB/s, loss 1.500")])
def test_a_bar_on_a_terminal(unit: str, rate: str) -> None:
    ours, theirs = pty.openpty()
    code = (
        "import time\nfrom megatron_octo import progress\n"
        f"with progress.bar('tokenize web', total=40_000, unit='{unit}') as advance:\n"
        "    time.sleep(0.1)\n    advance(40_000, 'loss 1.500')"
    )
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    subprocess.run([sys.executable, "-c", code], stderr=theirs, env=environment, check=True, timeout=30)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    os.close(theirs)
    assert "tokenize web" in shown
    assert rate in shown
    assert "━" in shown
