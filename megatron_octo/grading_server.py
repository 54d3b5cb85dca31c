"""math-verify behind a socket: a process that imports sympy once and forks a worker for every socket it is handed.

Started by `grading_pool.py` as `python -m megatron_octo.grading_server`, never imported by it: forking is safe here because this
process has one thread, and the caller's `__main__` (a script, a Ray worker) is not imported again. A worker that does not come
back from an answer is ended by the kernel: an alarm without a handler ends a process whatever sympy is doing.
"""

import json
import logging
import os
import resource
import signal
import socket
import sys

import math_verify
import sympy  # type: ignore[import-untyped]

from megatron_octo.units import MIB

#: Seconds for one answer; most take milliseconds.
ANSWER_SECONDS = 3.0
#: What a worker may allocate: towers of factorials take 800 MiB in five seconds.
MEMORY_BYTES = 512 * MIB
#: What the server says once it can fork workers.
READY = b"R"
EQUAL, DIFFERENT = b"1", b"0"
#: math-verify rounds to six decimals, which makes all tiny numbers equal.
RELATIVE_TOLERANCE = 1e-5


def main() -> int:
    """Serve the process at the other end of stdin, a Unix socket, until it closes it."""
    control = socket.socket(fileno=sys.stdin.fileno())
    # Ctrl-C reaches the whole terminal; the caller decides what it means. Ended workers leave no zombies.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # math-verify's own timeouts warn when they are off; ours ends the process.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    # The first answer builds parsers, which the workers then inherit.
    equal(r"\frac{1}{2}", "0.5")
    control.sendall(READY)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return 0
        connection = socket.socket(fileno=descriptors[0])
        if os.fork() == 0:
            control.close()
            _work(connection)
        connection.close()


def _work(connection: socket.socket) -> None:
    """Lines of JSON in, one byte out each; ends the process."""
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
        for line in connection.makefile():
            signal.setitimer(signal.ITIMER_REAL, ANSWER_SECONDS)
            verdict = _equal_or_not(*json.loads(line))
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.sendall(EQUAL if verdict else DIFFERENT)
    finally:
        os._exit(0)


def _equal_or_not(gold: str, answer: str) -> bool:
    try:
        return equal(gold, answer)
    except Exception as error:  # noqa: BLE001 - what sympy chokes on is wrong
        logging.getLogger(__name__).debug("math-verify on %r: %r", answer, error)
        return False


def equal(gold: str, answer: str) -> bool:
    """Whether math-verify takes two answers for the same, and for numbers, whether they are also relatively close."""
    # Both in boxes: raw gold strings are parsed as prose, and half of them wrongly.
    parsed = [math_verify.parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in (gold, answer)]
    return bool(math_verify.verify(*parsed, timeout_seconds=None)) and not _far_apart(*parsed)


def _far_apart(golds: list[object], answers: list[object]) -> bool:
    """Two numbers that are equal after rounding only, such as 2^-99 and 2^-98."""
    pair = [found[0] for found in (golds, answers) if found]
    if not all(isinstance(each, sympy.Expr) and each.is_number for each in pair):
        return False
    left, right = (abs(sympy.N(each)) for each in pair)
    return bool(abs(left - right) > RELATIVE_TOLERANCE * max(left, right))


if __name__ == "__main__":
    raise SystemExit(main())
