"""Work over several processes: order, progress, what a failing item and a dead worker say."""

import functools
import os
import signal
import time

import pytest

from megatron_octo import workers
from megatron_octo.errors import CorpusError, ResourceError

_base = 0


def begin(base: int) -> None:
    global _base
    _base = base


def add(number: int) -> int:
    time.sleep(0.05 * (3 - number))  # the first is the last to be ready
    workers.advance(number)
    return _base + number


def fail(number: int) -> None:
    if number == 1:
        raise CorpusError("b.jsonl:7 is not JSON")


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def progress(amount: float = 1, note: str = "") -> None:
    _seen.append(amount)


_seen: list[float] = []


def test_results_come_in_the_order_of_the_items() -> None:
    _seen.clear()
    given = workers.each(add, [0, 1, 2], num_workers=2, on_progress=progress, begin=functools.partial(begin, 40))
    assert given == [40, 41, 42]
    assert sum(_seen) == 3


def test_what_an_item_raises_is_raised() -> None:
    with pytest.raises(CorpusError, match=r"b\.jsonl:7 is not JSON"):
        workers.each(fail, [0, 1], num_workers=1, on_progress=progress)


def test_a_dead_worker_is_named_with_its_item() -> None:
    with pytest.raises(
        ResourceError, match=r"died \(killed by SIGKILL, .*memory.*\) while it worked on 7; run the same"
    ):
        workers.each(die, [7], num_workers=2, on_progress=progress)
