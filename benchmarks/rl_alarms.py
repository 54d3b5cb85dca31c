"""Which alarm of rl/alarms.py rings when in the paper's published RL runs: python benchmarks/rl_alarms.py CURVES [limit=value ...]

CURVES: the `rl_curves` CSVs of the paper's repository (one column per run and metric, a row every 4 logged steps), which hold
evaluation accuracy and the mean length of correct responses, and nothing of training. Each step becomes an evaluation row of the
four sets. For the two alarms on training rows the same numbers stand in, as a guess at what those would have done: accuracy over
all questions, and the length on MATH500. Truncation and entropy were not published. Two tables are printed: the runs with the
steps at which alarms rang, and how many runs ring at other limits.
"""

import argparse
import csv
import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from megatron_octo.rl import alarms
from megatron_octo.rl.alarms import Kind
from megatron_octo.rl.config import Alarms
from megatron_octo.rl.metrics import Row, step_of

QUESTIONS = {"GSM8k": 1319, "MATH500": 500, "OlympiadBench": 675, "AMC23": 40}
ACCURACY, LENGTH = "val/test_score", "val_response_length/test_length_correct"
#: Prompts of a training step in the released scripts.
PROMPTS = 128
#: Runs that lost their accuracy, by a part of their names only they have: Llama-3.2-3B mid-trained on web and OpenR1; that with
#: 1 % instructions; that with the structured template at 8k; FineMath.
LOST = ("openr1.91_math", "cpt8k_rl8k_math.8k_0411", "cpt8k_rl8k_math.8k_orztemplate", "fm4p")

#: Metric, then step.
Curves = dict[str, dict[int, float]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("curves", type=Path)
    parser.add_argument("limits", nargs="*", help="fields of config.Alarms, such as accuracy_drop=0.1")
    options = parser.parse_args()
    limits = dataclasses.replace(Alarms(), **{key: json.loads(value) for key, value in map(_pair, options.limits)})
    runs = {name: list(_rows(curves)) for name, curves in _published(options.curves).items()}
    _print_runs(runs, limits)
    _print_limits(runs, limits)


def _pair(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value


def _published(directory: Path) -> dict[str, Curves]:
    """The runs by name; some stand in several files."""
    runs: dict[str, Curves] = defaultdict(lambda: defaultdict(dict))
    for file in sorted(directory.rglob("*.csv")):
        with file.open(newline="") as stream:
            for row in csv.DictReader(stream):
                for column, value in row.items():
                    run, _, metric = column.partition(" - ")
                    if metric and value and not metric.endswith(("__MIN", "__MAX")):
                        runs[run][metric][int(row["Step"])] = float(value)
    return runs


def _rows(curves: Curves) -> Iterator[Row]:
    for step in sorted(set.intersection(*(set(curves[f"{ACCURACY}/{name}"]) for name in QUESTIONS))):
        right = {name: curves[f"{ACCURACY}/{name}"][step] for name in QUESTIONS}
        yield {
            "step": step,
            "prompts": PROMPTS,
            "accuracy": sum(right[name] * count for name, count in QUESTIONS.items()) / sum(QUESTIONS.values()),
            "response_length": curves[f"{LENGTH}/MATH500"].get(step),
        }
        for name, count in QUESTIONS.items():
            yield {"step": step, f"eval/{name}/accuracy": right[name], f"eval/{name}/questions": count}


def _lost(name: str) -> bool:
    return any(part in name for part in LOST)


def _print_runs(runs: dict[str, list[Row]], limits: Alarms) -> None:
    """Accuracies over all questions in percent, at their best, when the first alarm on them rang, and at the end."""
    print(f"{limits}\n\n| run | best | at the alarm | last | evaluation | accuracy* | length* | restart from |")
    print("|---|---|---|---|---|---|---|---|")
    for name in sorted(runs, key=lambda name: (not _lost(name), name)):
        accuracy = _training_accuracy(runs[name])
        found = alarms.check(runs[name], limits, saved=range(0, max(accuracy) + 1, 10))
        steps = {kind: [alarm.step for alarm in found if alarm.kind is kind] for kind in Kind}
        fallen = [alarm for alarm in found if alarm.kind in (Kind.EVALUATION, Kind.ACCURACY)]
        best, last = max(accuracy, key=lambda step: accuracy[step]), max(accuracy)
        cells = (
            ("lost: " if _lost(name) else "") + name.removeprefix("rl.grpo_"),
            f"{accuracy[best]:.1f} @ {best}",
            f"{accuracy[fallen[0].step]:.1f}" if fallen else "",
            f"{accuracy[last]:.1f} @ {last}",
            *(", ".join(map(str, steps[kind])) for kind in (Kind.EVALUATION, Kind.ACCURACY, Kind.LENGTH)),
            str(fallen[0].restart_from) if fallen else "",
        )
        print(f"| {' | '.join(cells)} |")


def _training_accuracy(rows: list[Row]) -> dict[int, float]:
    """In percent by step."""
    return {step_of(row): 100 * value for row in rows if (value := row.get("accuracy")) is not None}


def _print_limits(runs: dict[str, list[Row]], limits: Alarms) -> None:
    print("\n| limit | kind | lost runs that ring | other runs that ring |\n|---|---|---|---|")
    for drop in (0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3):
        for kind in (Kind.EVALUATION, Kind.ACCURACY):
            _print_limit(runs, dataclasses.replace(limits, accuracy_drop=drop), kind, f"accuracy_drop={drop:g}")
    for growth in (1.5, 2, 3, 4, 6):
        _print_limit(runs, dataclasses.replace(limits, length_growth=growth), Kind.LENGTH, f"length_growth={growth:g}")


def _print_limit(runs: dict[str, list[Row]], limits: Alarms, kind: Kind, said: str) -> None:
    ringing = [name for name, rows in runs.items() if any(a.kind is kind for a in alarms.check(rows, limits, saved=()))]
    lost = sum(map(_lost, ringing))
    print(f"| {said} | {kind.value} | {lost} of {len(LOST)} | {len(ringing) - lost} of {len(runs) - len(LOST)} |")


if __name__ == "__main__":
    main()
