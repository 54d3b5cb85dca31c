"""Killed twenty times, at random steps and in the middle of saves, a run ends where the unbroken one does, bit for bit.

The last moments of a save, between one rename and the next, are hit one by one in tests/unit/training/test_checkpoint_files.py.
"""

import json
import random
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
from ranks import Ranks

from megatron_octo.training import publishing

pytestmark = pytest.mark.slow

KILLS = 20
STEPS = 120
RECIPE = tiny.phase(
    "run", steps=STEPS, save_interval_tokens=3 * tiny.STEP, keep_checkpoints=2, keep_every_tokens=30 * tiny.STEP
)


@dataclass(frozen=True)
class Told:
    """What a broken run left at each kill."""

    in_a_save: int
    steps: tuple[int, ...]


@pytest.mark.parametrize("count", [1, 2])
def test_killed_twenty_times_equals_unbroken(ranks: Ranks, tmp_path: Path, count: int) -> None:
    for seed, corpus in enumerate(("prose", "code")):
        tiny.write_shards(tmp_path / "shards", corpus, windows=200, seed=seed)
    ranks.must(tiny.job(tmp_path, "unbroken", RECIPE, ranks=count))
    told = kill_again_and_again(ranks, tmp_path, count)
    ranks.must(tiny.job(tmp_path, "broken", RECIPE, ranks=count))
    print(f"{count} ranks: {told.in_a_save} of {KILLS} kills inside a save")  # pytest -s
    assert told.in_a_save >= KILLS // 3, told
    assert len(set(told.steps)) >= KILLS // 3, told
    assert curve(tmp_path / "broken") == curve(tmp_path / "unbroken")
    assert len(curve(tmp_path / "broken")) == STEPS
    every_checkpoint_loads(ranks, tmp_path / "broken", count)


def kill_again_and_again(ranks: Ranks, root: Path, count: int) -> Told:
    """Start the run and kill it at the same random moments in every test, two thirds of them in a save."""
    chance = random.Random(4)
    out = root / "broken"
    in_a_save, steps = 0, []
    for kill in range(KILLS):
        moment = {
            "out": str(out), "rows": chance.randrange(1, 5), "saves": 0 if kill % 3 == 0 else chance.choice((1, 1, 2)),
            "delay": chance.uniform(0, 0.06),
        }  # fmt: skip
        ended = ranks.run(tiny.job(root, "broken", RECIPE, ranks=count), prelude="killer:arm", argument=moment)
        assert ended.codes == (-signal.SIGKILL,) * count, "\n".join(ended.said)
        in_a_save += any((out / "checkpoints").glob(".iter_*"))
        steps.append(len(rows(out)))
        if (latest := publishing.named_latest(out / "checkpoints")) is not None:
            assert (out / "checkpoints" / latest / "checksums.json").exists()
    return Told(in_a_save=in_a_save, steps=tuple(steps))


def rows(out: Path) -> list[dict[str, Any]]:
    lines = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def curve(out: Path) -> list[dict[str, Any]]:
    """What does not depend on the clock: step, tokens, losses, learning rate, gradient norm."""
    exact = ("step", "tokens", "total_tokens", "learning_rate", "grad_norm")
    return [{key: value for key, value in row.items() if key in exact or key.startswith("loss")} for row in rows(out)]


def every_checkpoint_loads(ranks: Ranks, out: Path, count: int) -> None:
    names = publishing.complete_ones(out / "checkpoints")
    assert names == ["iter_0000030", "iter_0000060", "iter_0000090", "iter_0000117", "iter_0000120"]
    script = [["load", {"step": publishing.step_of(name)}] for name in names]
    argument = {"driver": {"out": str(out), "num_layers": tiny.MODEL.num_layers}, "script": script}
    ranks.must(tiny.job(out.parent, "load", RECIPE, ranks=count), prelude="saving_driver:run", argument=argument)
