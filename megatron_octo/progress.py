"""Progress with rate and time left: a bar on a terminal, a plain line every few seconds elsewhere (logs, CI, Slurm)."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from megatron_octo import units

#: Seconds between plain lines.
PLAIN_INTERVAL_SECONDS = 10.0
#: The unit that has multiples of its own: kB, MB.
BYTES = "B"


class Advance(Protocol):
    """Called as work gets done; `note` is a short text shown beside the rate, such as `loss 2.31`."""

    def __call__(self, amount: float = 1, note: str = "") -> None: ...


@contextlib.contextmanager
def bar(description: str, *, total: float, unit: str, done: float = 0) -> Iterator[Advance]:
    """Show progress of `total` units of work, of which `done` were done before; the unit `B` is bytes.

    >>> with progress.bar("tokenize web", total=len(texts), unit="documents") as advance:
    ...     advance(100)
    """
    show = _rich_bar if Console(file=sys.stderr).is_terminal else _plain_lines
    with show(description, total=total, unit=unit, done=done) as advance:
        yield advance


@contextlib.contextmanager
def _rich_bar(description: str, *, total: float, unit: str, done: float) -> Iterator[Advance]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    started = time.monotonic()
    made = 0.0
    with Progress(*columns, console=Console(file=sys.stderr)) as view:
        task = view.add_task(description, total=total, completed=int(done), rate="")

        def advance(amount: float = 1, note: str = "") -> None:
            nonlocal made
            made += amount
            view.update(task, advance=amount, rate=_rate(made, started, unit, note))

        yield advance


@contextlib.contextmanager
def _plain_lines(description: str, *, total: float, unit: str, done: float) -> Iterator[Advance]:
    started = last = time.monotonic()
    made = 0.0

    def advance(amount: float = 1, note: str = "") -> None:
        nonlocal made, last
        made += amount
        now = time.monotonic()
        if made and now - last >= PLAIN_INTERVAL_SECONDS:
            last = now
            left = (total - done - made) * (now - started) / made
            print(
                f"{description}: {_share(done + made, total, unit)}, {_rate(made, started, unit, note)}, "
                f"{units.duration(max(0.0, left))} left",
                file=sys.stderr, flush=True,
            )  # fmt: skip

    yield advance
    print(
        f"{description}: {_amount(done + made, unit)} in {units.duration(time.monotonic() - started)}",
        file=sys.stderr,
        flush=True,
    )


def _rate(made: float, started: float, unit: str, note: str) -> str:
    rate = f"{_amount(made / max(time.monotonic() - started, 1e-9), unit)}/s"
    return f"{rate}, {note}" if note else rate


def _share(made: float, total: float, unit: str) -> str:
    """`1.2 GB/5 GB`, `40/100 tokens`."""
    return f"{units.bytes_(made) if unit == BYTES else units.count(made)}/{_amount(total, unit)}"


def _amount(value: float, unit: str) -> str:
    return units.bytes_(value) if unit == BYTES else f"{units.count(value)} {unit}"
