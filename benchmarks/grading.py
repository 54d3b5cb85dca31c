r"""How fast and how right answers are judged: MATH500 against its own solutions, and answers that never end.

    python benchmarks/grading.py math500.jsonl

The file has one object per line with `problem`, `solution` and `answer`. The first table makes every pair go to math-verify, also the
equal texts that grading settles without it; the row "as used" does not. Prints Markdown; exit code 1 where a bar is not met.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import math_verify

from megatron_octo import grading_pool
from megatron_octo.answer_text import extract_boxed, for_math_verify
from megatron_octo.grading import grade

#: Bars: verdicts per second and core through the pool, and the longest time of any answer.
LEAST_RATE, MOST_SECONDS = 150.0, 6.0
THREADS = 16
NASTY = {
    "nested powers": "9^{9^{9^9}}",
    "powers of powers": "(((((7^{99})^{99})^{99})^{99})^{99})^{99}",
    "a large power": "99999999^{99999999}",
    "factorial": "100000000!",
    "nested factorials": "((((9!)!)!)!)",
    "factorials apart": "(((9!)+0)!+1)!",
    "binomial": r"\binom{99999999}{49999999}",
    "power of a binomial": r"\binom{9999}{4999}^{9999}",
    "endless sum": r"\sum_{n=1}^{\infty} \frac{1}{n^2+\sin n}",
    "sum of factorials": r"\sum_{n=1}^{9999999} n!",
    "product": r"\prod_{n=1}^{9999999} (n^2+1)",
    "expansion": "(a+b+c+d+e+f)^{999}",
    "50,000 open braces": r"\boxed{" * 50_000,
    "50,000 fractions": r"\frac{" * 50_000 + "}" * 50_000,
    "2,000 elements": r"\{" + ",".join(map(str, range(2_000))) + r"\}",
    "100 kB of digits": "9" * 100_000,
}


@dataclass(frozen=True)
class Row:
    name: str
    right: int
    rate: float
    cores: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    problems = [json.loads(line) for line in parser.parse_args().file.read_text().splitlines()]
    pairs = [(each["answer"], each["solution"]) for each in problems]
    rows, nasty = speeds(pairs), nasty_seconds()
    print(speed_table(rows, len(pairs)), nasty_table(nasty), sep="\n\n")
    pooled = rows[1]
    met = pooled.rate / pooled.cores >= LEAST_RATE and all(row.right == len(pairs) for row in rows[1:])
    met = met and max(seconds for seconds, _ in nasty.values()) <= MOST_SECONDS
    print(f"\nBars, all right, {LEAST_RATE:g}/s per core, {MOST_SECONDS:g} s: {'met' if met else '**not met**'}.")
    return 0 if met else 1


def speeds(pairs: Sequence[tuple[str, str]]) -> list[Row]:
    grading_pool.start()
    cores = min(grading_pool.graders(), os.cpu_count() or 1)
    alone(*pairs[0])  # math-verify builds its parsers with the first answer
    with ThreadPoolExecutor(THREADS) as threads:
        return [
            _row("math-verify alone, in this process", 1, lambda: [alone(*pair) for pair in pairs]),
            _row("math-verify through the pool", cores, lambda: list(threads.map(pooled, *zip(*pairs, strict=True)))),
            _row("as used: equal text first", cores, lambda: list(threads.map(as_used, *zip(*pairs, strict=True)))),
        ]


def _row(name: str, cores: int, judge: Callable[[], list[bool]]) -> Row:
    started = time.perf_counter()
    verdicts = judge()
    return Row(name, sum(verdicts), len(verdicts) / (time.perf_counter() - started), cores)


def alone(gold: str, solution: str) -> bool:
    parsed = [math_verify.parse(text, parsing_timeout=None) for text in (f"\\boxed{{{gold}}}", solution)]
    return bool(math_verify.verify(*parsed, timeout_seconds=None))


def pooled(gold: str, solution: str) -> bool:
    return grading_pool.verify(*for_math_verify(gold, extract_boxed(solution) or "")).equal


def as_used(gold: str, solution: str) -> bool:
    return grade(solution, gold).correct


def nasty_seconds() -> dict[str, tuple[float, str]]:
    """Seconds and what settled it, all of them asked at once."""

    def judge(answer: str) -> tuple[float, str]:
        started = time.perf_counter()
        verdict = grade(rf"\boxed{{{answer}}}", "5")
        return time.perf_counter() - started, "ended" if verdict.timeout else verdict.method.value

    with ThreadPoolExecutor(THREADS) as threads:
        return dict(zip(NASTY, threads.map(judge, NASTY.values()), strict=True))


def speed_table(rows: Sequence[Row], pairs: int) -> str:
    lines = [
        f"# Grading: {pairs} answers against their own solutions, {THREADS} threads",
        "",
        "| | right | per second | graders | per second and core |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {row.name} | {row.right} | {row.rate:,.0f} | {row.cores} | {row.rate / row.cores:,.0f} |"
            for row in rows
        ),
    ]
    return "\n".join(lines)


def nasty_table(found: dict[str, tuple[float, str]]) -> str:
    longest = max(seconds for seconds, _ in found.values())
    lines = [f"All of these at once, from {THREADS} threads; the longest took {longest:.1f} s.", "", "| answer | seconds | settled by |", "| --- | --- | --- |"]  # fmt: skip
    return "\n".join([*lines, *(f"| {name} | {seconds:.2f} | {how} |" for name, (seconds, how) in found.items())])


if __name__ == "__main__":
    raise SystemExit(main())
