"""How far a stage is and how fast it goes, out of its `stage.json` and the last rows of its `metrics.jsonl`.

Only stages that write metrics have a pace: training and reinforcement learning.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo import config
from megatron_octo.errors import ConfigError
from megatron_octo.process import last_lines
from megatron_octo.rl.config import RLJob
from megatron_octo.training.config import TrainingJob

METRICS = "metrics.jsonl"
#: Steps that "the speed now" is the mean of.
RECENT = 50


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What the newest steps say; None where the stage has no such number."""

    step: int | None = None
    #: Of the whole stage.
    steps: int | None = None
    #: Of the phase, made so far.
    tokens: int | None = None
    loss: float | None = None
    #: Mean over the responses of an RL step.
    reward: float | None = None
    tokens_per_second: float | None = None
    #: At the mean seconds of the last `RECENT` steps; saves and validations come on top.
    seconds_left: float | None = None


def read(out: Path, mark: Mapping[str, Any] | None) -> Pace:
    """The pace of the stage in `out`, whose `stage.json` holds `mark`."""
    steps = _steps(mark) if mark is not None else None
    # An RL row may be an evaluation, which has no time: twice as many lines hold enough steps.
    rows = [row for row in _rows(last_lines(out / METRICS, 2 * RECENT)) if _is_training(row)][-RECENT:]
    if not rows:
        return Pace(step=None if steps is None else 0, steps=steps)
    last = rows[-1]
    seconds = [row["seconds"] for row in rows if row.get("seconds") is not None]
    left = max(0, steps - last["step"]) * sum(seconds) / len(seconds) if steps is not None and seconds else None
    return Pace(
        step=last["step"],
        steps=steps,
        tokens=last.get("tokens"),
        loss=last.get("loss"),
        reward=last.get("reward"),
        tokens_per_second=_tokens_per_second(rows),
        seconds_left=left,
    )


def _steps(mark: Mapping[str, Any]) -> int | None:
    """Steps of the whole stage; None for one without steps, or whose config is of another version."""
    with contextlib.suppress(ConfigError):
        if mark["kind"] == "train":
            return config.from_dict(TrainingJob, mark["config"]).recipe.train_iters
        if mark["kind"] == "rl":
            return config.from_dict(RLJob, mark["config"]).recipe.train_steps
    return None


def _rows(lines: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The whole rows among some lines: the first may be cut, and the last may be half written."""
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            if isinstance(row, dict) and "step" in row:
                yield row


def _is_training(row: Mapping[str, Any]) -> bool:
    return not any(key.startswith("eval/") for key in row)


def _tokens_per_second(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Of all GPUs together: tokens over seconds, not the mean of rates, in which a slow step would hardly count."""
    timed = [(row["tokens_per_second"], row["seconds"]) for row in rows if row.get("tokens_per_second")]
    seconds = sum(duration for _, duration in timed)
    return sum(rate * duration for rate, duration in timed) / seconds if seconds else None
