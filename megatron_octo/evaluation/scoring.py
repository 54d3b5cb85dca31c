"""What the rows of one benchmark's samples add up to."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from megatron_octo.answer_text import PLAIN_NUMBER, normalise
from megatron_octo.errors import ArtifactError
from megatron_octo.evaluation import metrics

Row = Mapping[str, Any]


def scores(rows: Sequence[Row]) -> dict[str, Any]:
    """Scores of rows in any order; lengths in tokens, `truncated` and `answered` (an answer was found) shares of the samples.

    Raises `ArtifactError` where questions have not all the same samples.
    """
    questions = _by_question(rows)
    right = [[bool(row["correct"]) for row in samples] for samples in questions]
    ks = list(_powers_of_two(len(right[0])))
    voted = metrics.maj_at(right, [_numbered(samples) for samples in questions], ks)
    return {
        "accuracy": dataclasses.asdict(metrics.accuracy(right)),
        "pass_at": {str(k): dataclasses.asdict(metrics.pass_at(right, k)) for k in ks},
        "maj_at": {str(k): dataclasses.asdict(interval) for k, interval in voted.items()},
        "response_length": _mean([row["num_tokens"] for row in rows]),
        "response_length_correct": _mean([row["num_tokens"] for row in rows if row["correct"]]),
        "truncated": _mean([row["finish_reason"] == "length" for row in rows]),
        "answered": _mean([row["extracted"] is not None for row in rows]),
        "grading_timeouts": sum(row["grading_timeout"] for row in rows),
        "num_samples": len(right[0]),
    }


def _by_question(rows: Sequence[Row]) -> list[list[Row]]:
    """Samples of each question, both in their order."""
    found: dict[int, dict[int, Row]] = defaultdict(dict)
    for row in rows:
        found[row["index"]][row["sample"]] = row
    samples = {frozenset(of_question) for of_question in found.values()}
    if len(samples) != 1 or len(rows) != len(found) * len(next(iter(samples))):
        raise ArtifactError(
            f"{len(rows):,} samples of {len(found):,} questions are not the same number of each, every one once; "
            "run the evaluation to its end before it is scored"
        )
    return [[found[index][sample] for sample in sorted(found[index])] for index in sorted(found)]


def _numbered(samples: Sequence[Row]) -> list[int]:
    """A number per different answer, -1 for none. What the grader took as right is one answer, however it is spelt."""
    numbers: dict[str | None, int] = {}
    return [-1 if row["extracted"] is None else numbers.setdefault(_vote(row), len(numbers)) for row in samples]


def _vote(row: Row) -> str | None:
    """None for the right answer; wrong ones differ as texts, numbers by their value."""
    if row["correct"]:
        return None
    text = normalise(row["extracted"])
    return str(Decimal(text).normalize()) if PLAIN_NUMBER.fullmatch(text) else text


def _powers_of_two(most: int) -> Iterator[int]:
    """1, 2, 4 and so on up to `most`."""
    return (2**power for power in range(most.bit_length()))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
