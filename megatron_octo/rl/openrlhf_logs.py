"""What an OpenRLHF run said, as rows of metrics: its TensorBoard events and our rollouts, put together by time.

OpenRLHF logs a step when it is done with it, and only then begins to sample the next. So the rollouts of a step are those
made between two such events; in asynchronous runs, which sample ahead, the borders are off by a batch. Clocks of the nodes
are taken to agree to within a step.
"""

import bisect
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

from megatron_octo.rl import metrics
from megatron_octo.rl.lines import Growing
from megatron_octo.rl.metrics import EngineLog, Row
from megatron_octo.rl.rollouts import Rollout

#: The last scalar OpenRLHF writes of a step, and of an evaluation.
ENDS = {"train": "timing/step_total", "eval": "eval_num_samples"}
_TIME = itemgetter(0)


@dataclass(frozen=True)
class Ended:
    """A step or an evaluation that is logged to its end."""

    kind: str
    step: int
    #: Seconds since 1970.
    time: float
    values: Mapping[str, float]


class Logs:
    """A run's logs while it goes on; each look reads what was added since the one before."""

    def __init__(self, events: Path, rollouts: Path) -> None:
        self._events, self._rollouts = events, rollouts
        self._loaders: dict[Path, EventFileLoader] = {}
        self._files: dict[Path, Growing] = {}
        self._values: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
        #: Rollouts that no row tells of yet, by kind, each with the time at which it was scored, in order.
        self._waiting: dict[str, list[tuple[float, Rollout]]] = {kind: [] for kind in ENDS}

    def new_rows(self) -> Iterator[Row]:
        """Training and evaluation rows, in order, of all that was logged to its end since the last look."""
        ended = list(self._new_ends())
        if ended:  # after the events: what was sampled before them is on the disk by now
            self._read_rollouts()
        for each in ended:
            rollouts = self._take(each.kind, each.time)
            if each.kind == "eval":
                yield from _evaluation_rows(each.step, rollouts)
            elif rollouts:
                yield metrics.training_row(each.step, rollouts, engine_log(each.values))

    def _new_ends(self) -> Iterator[Ended]:
        for file in sorted(self._events.rglob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime):
            if file not in self._loaders:
                self._loaders[file] = EventFileLoader(str(file))
            for event in self._loaders[file].Load():
                for value in event.summary.value:
                    yield from self._note(value, event.step, event.wall_time)

    def _note(self, value: Any, step: int, time: float) -> Iterator[Ended]:
        """Keep a scalar until the last one of its step is there."""
        kind, _, name = value.tag.partition("/")
        if kind not in ENDS or value.metadata.plugin_data.plugin_name == "text":
            return
        self._values[kind, step][name] = float(tensor_util.make_ndarray(value.tensor).item())
        if name == ENDS[kind]:
            yield Ended(kind, step, time, self._values.pop((kind, step)))

    def _read_rollouts(self) -> None:
        for file in self._rollouts.glob("*.jsonl"):
            for row in self._files.setdefault(file, Growing(file)).new_rows():
                rollout = Rollout(**row["rollout"])
                self._waiting["train" if rollout.eval_set is None else "eval"].append((row["time"], rollout))
        for waiting in self._waiting.values():
            waiting.sort(key=_TIME)

    def _take(self, kind: str, until: float) -> list[Rollout]:
        """Those scored up to a time; they wait no longer."""
        waiting = self._waiting[kind]
        count = bisect.bisect_right(waiting, until, key=_TIME)
        taken = [rollout for _, rollout in waiting[:count]]
        del waiting[:count]
        return taken


def _evaluation_rows(step: int, rollouts: Sequence[Rollout]) -> Iterator[Row]:
    """A row per set, in the order in which they were begun."""
    by_set: dict[str, list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        assert rollout.eval_set is not None
        by_set[rollout.eval_set].append(rollout)
    for name, answered in by_set.items():
        yield metrics.evaluation_row(step, name, answered)


def engine_log(values: Mapping[str, float]) -> EngineLog:
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
