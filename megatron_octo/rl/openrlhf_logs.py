"""What an OpenRLHF run said, as rows of metrics: its TensorBoard events and our rollouts, put together by time.

OpenRLHF logs a step when it is done with it, and only then begins to sample the next. So the rollouts of a step are those
made between two such events; in asynchronous runs, which sample ahead, the borders are off by a batch. Clocks of the nodes
are taken to agree to within a step.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

from megatron_octo.rl import metrics
from megatron_octo.rl.metrics import EngineLog, Row
from megatron_octo.rl.rollouts import Rollout


@dataclass(frozen=True)
class Sampled:
    """A rollout and when it was scored, in seconds since 1970."""

    time: float
    rollout: Rollout


@dataclass
class Logged:
    """The scalars of one step, and when the last of them was logged."""

    values: dict[str, float]
    time: float = 0.0


NOTHING = Logged({})
#: The last scalar OpenRLHF writes of a step, and of an evaluation.
TRAIN_ENDS, EVAL_ENDS = "timing/step_total", "eval_num_samples"


def rows(events: Path, sampled: Sequence[Sampled]) -> Iterator[Row]:
    """Training and evaluation rows, in order, of all steps that the event files below `events` hold."""
    train, evaluated = _by_step(events)
    begun = 0.0
    for step, logged in sorted(train.items()):
        if TRAIN_ENDS not in logged.values:  # the rest of it has not reached the disk
            break
        ours = [each.rollout for each in sampled if begun < each.time <= logged.time]
        training = [rollout for rollout in ours if rollout.eval_set is None]
        if training:
            yield metrics.training_row(step, training, engine_log(logged.values))
        begun = logged.time
        if EVAL_ENDS in evaluated.get(step, NOTHING).values:
            yield from _evaluation_rows(step, sampled, begun, evaluated[step].time)
            begun = evaluated[step].time


def _evaluation_rows(step: int, sampled: Sequence[Sampled], begin: float, end: float) -> Iterator[Row]:
    ours = [each.rollout for each in sampled if begin < each.time <= end and each.rollout.eval_set is not None]
    for name in dict.fromkeys(rollout.eval_set for rollout in ours):
        assert name is not None
        yield metrics.evaluation_row(step, name, [rollout for rollout in ours if rollout.eval_set == name])


def read_sampled(directory: Path) -> list[Sampled]:
    """All whole lines of all engines, by time; a kill may have cut the last line of a file."""
    found = []
    for file in directory.glob("*.jsonl"):
        for line in file.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                row = json.loads(line)
                found.append(Sampled(row["time"], Rollout(**row["rollout"])))
    return sorted(found, key=lambda each: each.time)


def engine_log(values: dict[str, float]) -> EngineLog:
    """OpenRLHF's names in ours. Without a reference model it logs a KL of zero, which is none."""
    return EngineLog(
        entropy=values.get("entropy_loss"),
        kl=values.get("kl") or None,
        clip=values.get("ppo_clip_ratio"),
        learning_rate=values.get("actor_lr"),
        grad_norm=values.get("actor_grad_norm"),
        seconds=values.get("timing/step_total"),
        seconds_generation=values.get("timing/generation"),
        seconds_training=values.get("timing/ppo_train"),
        seconds_sync=values.get("timing/broadcast"),
    )


def _by_step(events: Path) -> tuple[dict[int, Logged], dict[int, Logged]]:
    """Scalars below `train/` and `eval/` by step."""
    train: dict[int, Logged] = {}
    evaluated: dict[int, Logged] = {}
    for file in sorted(events.rglob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                kind, _, name = value.tag.partition("/")
                if kind not in ("train", "eval") or value.metadata.plugin_data.plugin_name == "text":
                    continue
                of = (train if kind == "train" else evaluated).setdefault(event.step, Logged({}))
                of.values[name] = float(tensor_util.make_ndarray(value.tensor).item())
                of.time = event.wall_time
    return train, evaluated
