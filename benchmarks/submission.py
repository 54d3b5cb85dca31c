"""From submission to the first training step: `megatron-octo train --on PLACE` beside a batch script written by hand, on one cluster.

    python benchmarks/submission.py --place place.yaml --shards SHARDS --nodes 2 --ranks 4

Both run the same stage of the same config with the same tasks, in turns. PLACE describes a cluster whose clients (sbatch) this machine
has; `bash tests/slurm/mini_slurm.sh up` makes one. A run is told to end after a few steps.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from megatron_octo import config, recipes
from megatron_octo.config import dumps
from megatron_octo.launch import place as places
from megatron_octo.launch.place import Place
from megatron_octo.training.config import TrainingJob

#: Three steps, of micro-batches that four ranks can share.
CHANGES = ("train_tokens=6144", "micro_batch_size=4")
POLL_SECONDS = 0.02
PATIENCE_SECONDS = 300.0
BY_HAND = """#!/bin/bash
#SBATCH --nodes={nodes} --ntasks-per-node={tasks} --time=10 --output={out}.log
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n1) MASTER_PORT=29511 OMP_NUM_THREADS=1
srun bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS \\
  {python} -m megatron_octo.training.run {config} {out}'
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path, required=True)
    parser.add_argument("--shards", type=Path, required=True, help="tokenised corpora of tiny.stable")
    parser.add_argument("--work", type=Path, default=Path("submission.work"), help="on a file system all nodes share")
    parser.add_argument("--program", default="megatron-octo", help="of an environment with NeMo-Run")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    where = places.load(chosen.place)
    work = chosen.work.absolute()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    submitters = {"nemo-run": "nemo-run", "sbatch": "sbatch"}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ("by hand", *submitters)}
    for turn in range(chosen.repeats):
        times["by hand"].append(_by_hand(chosen, where, work / f"hand{turn}"))
        for name in submitters:
            times[name].append(_ours(chosen, name, work / f"{name}{turn}"))
    _table(times)


def _by_hand(chosen: argparse.Namespace, where: Place, out: Path) -> tuple[float, float]:
    recipe = config.override(recipes.load("tiny.stable"), CHANGES)
    settings = out.with_suffix(".json")
    settings.write_text(dumps(TrainingJob(recipe=recipe, shards=chosen.shards.absolute())))
    script = out.with_suffix(".sbatch")
    script.write_text(
        BY_HAND.format(
            nodes=chosen.nodes, tasks=chosen.ranks // chosen.nodes, out=out, config=settings, python=where.python
        )
    )
    return _timed(["sbatch", "--parsable", str(script)], out)


def _ours(chosen: argparse.Namespace, submitter: str, out: Path) -> tuple[float, float]:
    settings = json.loads(chosen.place.read_text()) | {"submitter": submitter}
    place = out.with_suffix(".place.yaml")
    place.write_text(json.dumps(settings))  # JSON is YAML
    words = [chosen.program, "train", "tiny.stable", *CHANGES, "--ranks", str(chosen.ranks)]
    words += ["--shards", str(chosen.shards.absolute()), "--out", str(out), "--on", str(place)]
    return _timed([*words, "--nodes", str(chosen.nodes)], out)


def _timed(command: list[str], out: Path) -> tuple[float, float]:
    """Seconds until the command returned, and until the first step was written down; returns when the run is over."""
    metrics = out / "metrics.jsonl"
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    submitted = time.perf_counter() - started
    while not (metrics.exists() and metrics.stat().st_size):
        if time.perf_counter() - started > PATIENCE_SECONDS:
            sys.exit(f"no step in {metrics} after {PATIENCE_SECONDS:g} s; see the job's log")
        time.sleep(POLL_SECONDS)
    first_step = time.perf_counter() - started
    while subprocess.run(["squeue", "--noheader"], check=True, capture_output=True).stdout.strip():
        time.sleep(0.2)
    return submitted, first_step


def _table(times: dict[str, list[tuple[float, float]]]) -> None:
    by_hand = statistics.median(first for _, first in times["by hand"])
    print("| submitted | command returns, s | first step, s | more than by hand, s |\n|---|---|---|---|\n", end="")
    for name, pairs in times.items():
        submitted, first = (statistics.median(column) for column in zip(*pairs, strict=True))
        firsts = sorted(first for _, first in pairs)
        print(
            f"| {name} | {submitted:.1f} | {first:.1f} ({firsts[0]:.1f} to {firsts[-1]:.1f}) | {first - by_hand:+.1f} |"
        )


if __name__ == "__main__":
    main()
