r"""How fast the TRL engine learns: one-digit addition from about half of the sums right, on this machine's CPU.

    python benchmarks/rl_trl.py        (prints a Markdown table and the curve)

The model and the recipe are those of tests/integration/test_rl_learns.py. Exit code 1 where the run ends below `BAR_ACCURACY` or
takes longer than `BAR_SECONDS`.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "integration"))

import tiny_arithmetic

from megatron_octo.rl import run as rl_run

BAR_ACCURACY = 0.85
BAR_SECONDS = 180.0


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        started = time.perf_counter()
        model, questions = tiny_arithmetic.make(root)
        taught = time.perf_counter()
        rl_run.run(tiny_arithmetic.job(model, questions), root / "rl", force=False)
        ended = time.perf_counter()
        before, after = tiny_arithmetic.accuracy(model), tiny_arithmetic.accuracy(root / "rl" / "model")
        rows = [json.loads(line) for line in (root / "rl" / "metrics.jsonl").read_text().splitlines()]
    seconds = ended - taught
    print(f"{os.cpu_count()} processors; the model was taught in {taught - started:.1f} s.\n")
    print("| accuracy before | after | seconds | of these generation | training |\n|---|---|---|---|---|")
    steps = [row for row in rows if "reward" in row]
    generation, training = (sum(row[f"seconds_{what}"] for row in steps) for what in ("generation", "training"))
    print(f"| {before:.0%} | {after:.0%} | {seconds:.1f} | {generation:.1f} | {training:.1f} |\n")
    print_curve(rows)
    return int(after < BAR_ACCURACY or seconds > BAR_SECONDS)


def print_curve(rows: list[dict[str, float]]) -> None:
    training = {row["step"]: row for row in rows if "reward" in row}
    print("| step | accuracy, greedy | accuracy, sampled | truncated | tokens |\n|---|---|---|---|---|")
    for row in rows:
        if "eval/sums/accuracy" in row:
            step = training.get(row["step"])
            sampled = (
                f"{step['accuracy']:.0%} | {step['truncated']:.0%} | {step['response_length']:.1f}" if step else "| |"
            )
            print(f"| {row['step']} | {row['eval/sums/accuracy']:.0%} | {sampled} |")


if __name__ == "__main__":
    raise SystemExit(main())
