r"""Do the benchmarks' own solutions count as right, and those of other questions as wrong?

    python benchmarks/gold_answers.py DIR [--misses]

For every DIR/NAME.jsonl or .parquet of a known benchmark: each question's gold response, as a few-shot example shows it, is graded
by the grader of rewards and evaluation against its own answer, and then against the answer of the question before it. Where those
two answers are equal anyway the second says nothing and is left out. Prints Markdown; `--misses` lists what was graded otherwise than
it should. Exit code 1 where a bar is not met.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_octo import grading_pool
from megatron_octo.errors import CorpusError
from megatron_octo.evaluation import loading, sources
from megatron_octo.evaluation.benchmarks import BENCHMARKS, named
from megatron_octo.evaluation.prompts import gold_response
from megatron_octo.grading import Grade, grade_all
from megatron_octo.questions import Question

#: Least share of own solutions that are right; 1 where nothing stands here, and none for OCW, whose answers are partly code.
BARS = {"math500": 0.998, "olympiad_bench": 0.99, "ocw": 0.0}
#: Most of others' solutions that may count: some answers differ in writing only.
MOST_MISTAKEN = 0.005


@dataclass(frozen=True)
class Row:
    title: str
    right: list[bool]
    #: For a pair of questions with different answers, whether one's response was right for the other.
    mistaken: list[bool]
    seconds: float
    bar: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--misses", action="store_true")
    options = parser.parse_args()
    grading_pool.start()
    rows = []
    for name in BENCHMARKS:
        try:
            (source,) = sources.local([name], options.directory)
        except CorpusError:
            continue
        rows.append(measure(name, loading.questions(source), show=options.misses))
    print(table(rows))
    met = [
        sum(row.right) >= row.bar * len(row.right) and sum(row.mistaken) <= MOST_MISTAKEN * len(row.mistaken)
        for row in rows
    ]
    return 0 if rows and all(met) else 1


def measure(name: str, asked: Sequence[Question], *, show: bool) -> Row:
    responses = [gold_response(named(name), each) for each in asked]
    started = time.perf_counter()
    own = _graded(responses, asked)
    seconds = time.perf_counter() - started
    others = _graded([*responses[1:], *responses[:1]], asked)
    differ = [each.answer != after.answer for each, after in zip(asked, [*asked[1:], *asked[:1]], strict=True)]
    if show:
        _show(name, asked, own, expected=True, counts=[True] * len(asked))
        _show(name, asked, others, expected=False, counts=differ)
    return Row(
        title=named(name).title,
        right=[verdict.correct for verdict in own],
        mistaken=[verdict.correct for verdict, counts in zip(others, differ, strict=True) if counts],
        seconds=seconds,
        bar=BARS.get(name, 1.0),
    )


def _graded(responses: Sequence[str], asked: Sequence[Question]) -> list[Grade]:
    answers, choices = [each.answer for each in asked], [each.choices for each in asked]
    return grade_all(responses, answers, lenient=True, choices=choices)


def _show(
    name: str, asked: Sequence[Question], verdicts: Sequence[Grade], *, expected: bool, counts: Sequence[bool]
) -> None:
    for place, (question, verdict) in enumerate(zip(asked, verdicts, strict=True)):
        if counts[place] and verdict.correct is not expected:
            print(f"{name} {place}: gold {question.answer!r}, extracted {verdict.extracted!r}, {verdict.method.value}")


def table(rows: Sequence[Row]) -> str:
    lines = [
        "| benchmark | questions | own solution right | share | bar | seconds | another's solution | taken for right |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        right, taken = sum(row.right), sum(row.mistaken)
        lines.append(
            f"| {row.title} | {len(row.right):,} | {right:,} | {right / len(row.right):.2%} | {row.bar:.1%} | {row.seconds:.1f} "
            f"| {len(row.mistaken):,} | {taken} ({taken / max(1, len(row.mistaken)):.2%}) |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
