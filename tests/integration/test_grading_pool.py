"""Sixteen threads at once, most with answers that never end: everybody has a verdict in time, and the right answers theirs."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from megatron_octo import grading_pool
from megatron_octo.grading import Grade, Method, grade

#: Past the guard on purpose, but for the last four: what cheap checks do not see must be ended.
NASTY = {
    "nested powers": r"9^{8^{7^{6}}}",
    "powers of powers": r"(((((7^{99})^{99})^{99})^{99})^{99})^{99}",
    "factorial": "999!^{999!}",
    "factorials": r"(((9!)+0)!+1)!",
    "sum": r"\sum_{n=1}^{\infty} \frac{1}{n^2+\sin n}",
    "sum of factorials": r"\sum_{n=1}^{9999999} n!",
    "binomial": r"\binom{9999}{4999}^{9999}",
    "product": r"\prod_{n=1}^{9999999} (n^2+1)",
    "integral": r"\int_0^1 \frac{\sin(x^x)}{\ln(x+\sqrt{x^3+1})} dx",
    "braces": "{" * 450 + "1" + "}" * 450,
    "fractions": r"\frac{1}{" * 90 + "x" + "}" * 90,
    "expansion": "(a+b+c+d+e+f)^{999}",
    "50,000 braces": r"\frac{" * 50_000,
    "2,000 elements": ",".join(map(str, range(2_000))),
    "100 kB of digits": "9" * 100_000,
    "199 elements": ",".join(f"\\sqrt{{{number}}}" for number in range(99)),
}


def timed(response: str, gold: str) -> tuple[Grade, float]:
    started = time.monotonic()
    verdict = grade(response, gold)
    return verdict, time.monotonic() - started


@pytest.fixture(autouse=True)
def _running() -> None:
    grading_pool.start()


def test_nasty_answers_from_sixteen_threads() -> None:
    with ThreadPoolExecutor(max_workers=16) as threads:
        found = list(threads.map(lambda answer: timed(rf"\boxed{{{answer}}}", "5"), NASTY.values()))
    seconds = dict(zip(NASTY, [spent for _, spent in found], strict=True))
    assert max(seconds.values()) < grading_pool.HARD_TIMEOUT_SECONDS, seconds
    assert not any(verdict.correct for verdict, _ in found)
    assert any(verdict.timeout for verdict, _ in found)


def test_right_answers_do_not_wait_for_bombs() -> None:
    bombs = [(rf"\boxed{{\sum_{{n=1}}^{{\infty}} \frac{{{n}}}{{n^2+\sin n}}}}", "5") for n in range(2, 18)]
    fine = [(rf"\boxed{{\frac{{{2 * n}}}{{14}}}}", rf"\frac{{{n}}}{{7}}") for n in range(1, 7)]
    with ThreadPoolExecutor(max_workers=22) as threads:
        found = list(threads.map(lambda pair: timed(*pair), bombs + fine))
    assert all(verdict.timeout for verdict, _ in found[:16])
    assert [(verdict.correct, verdict.timeout, verdict.method) for verdict, _ in found[16:]] == [
        (True, False, Method.MATH_VERIFY)
    ] * 6
    assert max(spent for _, spent in found) < grading_pool.HARD_TIMEOUT_SECONDS


def test_a_server_that_was_ended_is_started_again() -> None:
    server = grading_pool._pool().server
    server.kill()
    server.wait()
    assert grade(r"\boxed{\frac{22}{8}}", r"\frac{11}{4}").correct


def test_a_forked_process_has_workers_of_its_own() -> None:
    assert grade(r"\boxed{\frac{26}{8}}", r"\frac{13}{4}").correct
    child = os.fork()
    if child == 0:
        verdicts = (grade(r"\boxed{\frac{30}{8}}", r"\frac{15}{4}"), grade(r"\boxed{\frac{30}{8}}", r"\frac{17}{4}"))
        os._exit(int([each.correct for each in verdicts] != [True, False]))
    assert os.waitpid(child, 0)[1] == 0
    assert grade(r"\boxed{\frac{34}{8}}", r"\frac{17}{4}").correct


@pytest.mark.parametrize("start", [["-"], ["-c"]])
def test_a_main_without_a_guard_may_grade(start: list[str]) -> None:
    code = r"""
from threading import Thread
from megatron_octo.grading import grade
found = []
thread = Thread(target=lambda: found.append(grade(r"\boxed{\frac{2}{4}}", r"0.5").correct))
thread.start(); thread.join(); print(found)
"""
    command, text = ([*start, code], None) if start == ["-c"] else (start, code)
    done = subprocess.run(
        [sys.executable, *command], input=text, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[True]\n"


def test_idle_workers_end_with_their_process() -> None:
    code = r"""
from megatron_octo import grading_pool
from megatron_octo.grading import grade
assert grade(r"\boxed{\frac{2}{4}}", "0.5").correct
print(grading_pool._pool().server.pid)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert _soon(lambda: not _alive(int(done.stdout)))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _soon(what: Callable[[], bool]) -> bool:
    waited = threading.Event()
    return any(what() or waited.wait(0.1) for _ in range(50))
