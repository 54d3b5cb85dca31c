"""Two evaluations of the same questions, benchmark by benchmark: which model is better, and may it be luck?

python -m megatron_octo.evaluation.compare BEFORE AFTER [--json]
"""

import argparse
import dataclasses
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo import artifacts, jsonl, process
from megatron_octo.errors import ArtifactError, listed
from megatron_octo.evaluation import metrics
from megatron_octo.evaluation.metrics import Difference, Interval

#: Below this p value a difference is called one.
SIGNIFICANT = 0.05
#: Settings that move scores of one model on one prompt; two evaluations that differ in them are compared, but not silently.
TELLING = ("max_new_tokens", "temperature", "top_p", "stop_strings", "lenient", "engine")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One benchmark in both evaluations; accuracies lie in 0..1."""

    benchmark: str
    before: Interval
    after: Interval
    difference: Difference
    #: Whether both models were given the same prompts to the letter.
    same_prompts: bool


def compare(before: Path, after: Path) -> list[Comparison]:
    """Compare the benchmarks that both finished evaluations hold, in the order of the first.

    Raises `ArtifactError` where they have none in common, or asked different questions in one of them.
    """
    ours, theirs = _scores(before), _scores(after)
    common = [name for name in ours if name in theirs]
    if not common:
        raise ArtifactError(
            f"{before} holds {listed(ours)} and {after} holds {listed(theirs)}; evaluate both on one benchmark at least"
        )
    return [
        _compare(name, before, after, same_prompts=ours[name]["prompt_hash"] == theirs[name]["prompt_hash"])
        for name in common
    ]


def left_out(before: Path, after: Path) -> list[str]:
    """Benchmarks that only one of two evaluations holds."""
    return sorted(_scores(before).keys() ^ _scores(after).keys())


def other_settings(before: Path, after: Path) -> list[str]:
    """`temperature: 0.0 and 0.8`, of each of the settings that two evaluations do not share."""
    ours, theirs = _settings(before), _settings(after)
    return [f"{name}: {ours[name]} and {theirs[name]}" for name in TELLING if ours[name] != theirs[name]]


def table(comparisons: Sequence[Comparison]) -> str:
    """Markdown: a row per benchmark in percent and points, then what has to be known to read it."""
    rows = [
        "| benchmark | questions | before | after | difference | 95 % interval | p |",
        "|:--|--:|--:|--:|--:|:-:|--:|",
        *map(_row, comparisons),
    ]
    return "\n".join([*rows, "", *_notes(comparisons)])


def _scores(directory: Path) -> dict[str, Any]:
    """By benchmark. Raises `ArtifactError` for a directory that is no finished evaluation."""
    kind = artifacts.finished(directory)["kind"]
    if kind != "evaluate":
        raise ArtifactError(f"{directory} holds a {kind} stage; name what `eval` made")
    scores: dict[str, Any] = json.loads((directory / "scores.json").read_text(encoding="utf-8"))
    return scores


def _settings(directory: Path) -> dict[str, Any]:
    config = artifacts.finished(directory)["config"]
    settings = {name: config.get(name) for name in TELLING}
    if settings["lenient"] is None:
        settings["lenient"] = config.get("template") is None  # as `Evaluation.accepts_unboxed`
    return settings


def _compare(name: str, before: Path, after: Path, *, same_prompts: bool) -> Comparison:
    asked_before, right_before = _answered(before, name)
    asked_after, right_after = _answered(after, name)
    if asked_before != asked_after:
        raise ArtifactError(
            f"{before} and {after} asked different questions of {name}: {len(asked_before):,} and {len(asked_after):,}, "
            f"{len(set(asked_before) & set(asked_after)):,} of them the same; evaluate both on the same file and limit"
        )
    return Comparison(
        benchmark=name,
        before=metrics.accuracy(right_before),
        after=metrics.accuracy(right_after),
        difference=metrics.paired_difference(right_before, right_after),
        same_prompts=same_prompts,
    )


def _answered(directory: Path, name: str) -> tuple[list[tuple[str, str]], list[list[bool]]]:
    """Questions with their gold answers, and the verdicts on each."""
    verdicts: dict[int, list[bool]] = defaultdict(list)
    asked = {}
    for row in jsonl.read(directory / "samples" / f"{name}.jsonl"):
        asked[row["index"]] = row["question"], row["answer"]
        verdicts[row["index"]].append(row["correct"])
    order = sorted(asked)
    return [asked[index] for index in order], [verdicts[index] for index in order]


def _row(each: Comparison) -> str:
    gained = each.difference
    before, after = (f"{100 * interval.mean:.1f}" for interval in (each.before, each.after))
    cells = (
        each.benchmark, f"{gained.n:,}", before, after, _points(gained.mean), f"{_points(gained.low)} to {_points(gained.high)}",
        _p_value(gained.p_value),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _notes(comparisons: Sequence[Comparison]) -> list[str]:
    return [
        *(f"{each.benchmark}: {_verdict(each.difference)}." for each in comparisons),
        *(
            f"{each.benchmark}: the prompts are not the same; part of the difference may be theirs."
            for each in comparisons
            if not each.same_prompts
        ),
        *(
            [f"{len(comparisons)} benchmarks: of twenty that differ by luck alone, one has p < {SIGNIFICANT}."]
            if len(comparisons) > 1
            else []
        ),
    ]


def _verdict(gained: Difference) -> str:
    if gained.p_value < SIGNIFICANT:
        return f"the second is {'better' if gained.mean > 0 else 'worse'}"
    least = 100 * max(abs(gained.low), abs(gained.high))
    return f"{gained.n:,} questions cannot tell; the models may differ by up to {least:.1f} points"


def _points(share: float) -> str:
    """Percentage points with their sign."""
    return f"{100 * share:+.1f}"


def _p_value(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def main() -> None:
    parser = argparse.ArgumentParser(description="compare two evaluations of the same questions")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_args()
    comparisons = compare(given.before, given.after)
    if given.json:
        print(json.dumps([dataclasses.asdict(each) for each in comparisons], indent=2))
        return
    print(table(comparisons))
    for setting in other_settings(given.before, given.after):
        print(f"{setting}: the two were not evaluated alike; part of the differences may be its.")
    for name in left_out(given.before, given.after):
        print(f"{name}: only one of the two holds it.")


if __name__ == "__main__":
    raise SystemExit(process.exit_code(main))
