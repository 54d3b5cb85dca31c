"""Whether a run is going wrong, from its rows alone. What the limits rest on: benchmarks/rl_alarms.py.

Each kind of trouble is a series of points whose `severity` is the share of its limit that is reached: the alarm rings at 1 and
may ring again after the severity was below one half. The trouble is taken to have begun after the last point below one half.
"""

import enum
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from megatron_octo.rl.config import Alarms
from megatron_octo.rl.metrics import Row, step_of

#: Standard errors by which an accuracy must be below the best one. In the stable ones of the paper's published runs the
#: evaluations come to 2.4 (benchmarks/rl_alarms.py).
NOISE = 3.0
#: A growth in length counts as healthy where accuracy rose by this share with it; our choice.
PAYS = 0.05


class Kind(enum.StrEnum):
    LENGTH = "length blow-up"
    TRUNCATION = "truncation"
    ENTROPY = "entropy collapse"
    ACCURACY = "accuracy collapse"
    EVALUATION = "evaluation accuracy collapse"


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """One trouble. Kind and step say which it is: `restart_from` moves when checkpoints go."""

    kind: Kind
    #: At which it was noticed.
    step: int
    #: A sentence for people.
    seen: str
    #: The newest saved step before the trouble began; None where there is none.
    restart_from: int | None


@dataclass(frozen=True, kw_only=True)
class _Point:
    step: int
    #: The first step this speaks of. While a mean is well, a trouble that lasts has begun after the first of its steps.
    since: int
    #: Share of the limit.
    severity: float
    seen: str


@dataclass(frozen=True, kw_only=True)
class _Mean:
    """Over the steps from `since` up to `step`."""

    step: int
    since: int
    value: float
    #: Independent samples in it.
    count: float = 0


def check(rows: Sequence[Row], limits: Alarms, *, saved: Sequence[int]) -> list[Alarm]:
    """All alarms of a run so far, in the order of their steps.

    Args:
        rows: of a `Journal`; evaluations every few steps only.
        saved: steps whose checkpoints are there.
    """
    series = {
        Kind.LENGTH: _length(rows, limits),
        Kind.TRUNCATION: _truncation(rows, limits),
        Kind.ENTROPY: _entropy(rows, limits),
        Kind.ACCURACY: _accuracy(_training_accuracy(rows, limits), limits, what="training accuracy"),
        Kind.EVALUATION: _accuracy(_evaluations(rows), limits, what="accuracy over all evaluation questions"),
    }
    found = [alarm for kind, points in series.items() for alarm in _ringing(kind, points, saved)]
    return sorted(found, key=lambda alarm: alarm.step)


def _ringing(kind: Kind, points: Iterator[_Point], saved: Sequence[int]) -> Iterator[Alarm]:
    rings, well = False, -1
    for point in points:
        if point.severity < 0.5:
            rings, well = False, point.since
        elif point.severity >= 1 and not rings:
            rings = True
            restart = max((step for step in saved if step <= well), default=None)
            yield Alarm(kind=kind, step=point.step, seen=point.seen, restart_from=restart)


def _truncation(rows: Sequence[Row], limits: Alarms) -> Iterator[_Point]:
    if limits.truncated_share is None:
        return
    for mean in _means(rows, "truncated", limits.window_steps):
        yield _Point(
            step=mean.step,
            since=mean.since,
            severity=mean.value / limits.truncated_share,
            seen=f"{mean.value:.0%} of the responses of the last {limits.window_steps} steps reached the cap "
            f"(limit {limits.truncated_share:.0%})",
        )


def _entropy(rows: Sequence[Row], limits: Alarms) -> Iterator[_Point]:
    if limits.entropy_floor is None:
        return
    for now in _means(rows, "entropy", 1):  # over all tokens of a step, which is smooth enough
        yield _Point(
            step=now.step,
            since=now.since,
            severity=limits.entropy_floor / now.value if now.value > 0 else math.inf,
            seen=f"the entropy is {now.value:.3g} nats per token (floor {limits.entropy_floor:g})",
        )


def _length(rows: Sequence[Row], limits: Alarms) -> Iterator[_Point]:
    """Longer without being more often right."""
    if limits.length_growth is None:
        return
    lengths = _means(rows, "response_length", limits.window_steps)
    accuracy = {mean.step: mean.value for mean in _means(rows, "accuracy", limits.window_steps)}
    for place, now in enumerate(lengths):
        low = min(_within(lengths, place, limits.window_steps), key=lambda mean: mean.value)
        growth = now.value / low.value if low.value > 0 else 1.0
        pays = accuracy.get(now.step, 0.0) > (1 + PAYS) * accuracy.get(low.step, 0.0)
        yield _Point(
            step=now.step,
            since=now.since,
            severity=0.0 if pays else (growth - 1) / (limits.length_growth - 1),
            seen=f"responses grew from {low.value:,.0f} tokens at step {low.step} to {now.value:,.0f} ({growth:.1f} times, limit "
            f"{limits.length_growth:g}) while accuracy did not rise by {PAYS:.0%}",
        )


def _accuracy(means: Sequence[_Mean], limits: Alarms, *, what: str) -> Iterator[_Point]:
    """Against the best so far; what chance alone may do is not counted."""
    if limits.accuracy_drop is None or not means:
        return
    best = means[0]
    for now in means:
        best = max(best, now, key=lambda mean: mean.value)
        lost = 1 - now.value / best.value if best.value > 0 else 0.0
        yield _Point(
            step=now.step,
            since=now.since,
            severity=min(lost / limits.accuracy_drop, _standard_errors(best, now) / NOISE),
            seen=f"{what} is {now.value:.1%}, it was {best.value:.1%} at step {best.step}: {lost:.0%} of it is lost "
            f"(limit {limits.accuracy_drop:.0%})",
        )


def _standard_errors(best: _Mean, now: _Mean) -> float:
    """How many of the difference of two proportions lie between them."""
    share = (best.value * best.count + now.value * now.count) / (best.count + now.count)
    error = math.sqrt(share * (1 - share) * (1 / best.count + 1 / now.count))
    return (best.value - now.value) / error if error > 0 else 0.0


def _training_accuracy(rows: Sequence[Row], limits: Alarms) -> list[_Mean]:
    return _means(rows, "accuracy", limits.window_steps)


def _evaluations(rows: Sequence[Row]) -> list[_Mean]:
    """Accuracy over the questions of all sets together, which is less noisy than any one; steps that lack a set are left out."""
    by_step: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        for key, value in row.items():
            if key.startswith("eval/") and key.endswith("/accuracy") and value is not None:
                questions = row[key.removesuffix("accuracy") + "questions"]
                by_step[step_of(row)].append((value, questions or 0))
    whole = max(map(len, by_step.values()), default=0)
    return [_pooled(step, sets) for step, sets in sorted(by_step.items()) if len(sets) == whole]


def _pooled(step: int, sets: Sequence[tuple[float, float]]) -> _Mean:
    questions = sum(count for _, count in sets)
    return _Mean(step=step, since=step, value=sum(value * count for value, count in sets) / questions, count=questions)


def _means(rows: Sequence[Row], key: str, window_steps: int) -> list[_Mean]:
    """Of the last `window_steps` steps, from the first step on that has so many before it."""
    single = [
        # The samples of one prompt are alike, so prompts count.
        _Mean(step=step_of(row), since=step_of(row), value=value, count=row.get("prompts") or 1)
        for row in rows
        if (value := row.get(key)) is not None
    ]
    return [
        _mean(_within(single, place, window_steps), window_steps)
        for place, each in enumerate(single)
        if each.step - single[0].step >= window_steps - 1
    ]


def _mean(recent: Sequence[_Mean], window_steps: int) -> _Mean:
    step = recent[-1].step
    return _Mean(
        step=step,
        since=step - window_steps + 1,
        value=sum(each.value for each in recent) / len(recent),
        count=sum(each.count for each in recent),
    )


def _within(means: Sequence[_Mean], place: int, window_steps: int) -> list[_Mean]:
    """Those of the `window_steps` steps up to the one at `place`; steps rise, so there are no more than that many."""
    recent = means[max(0, place + 1 - window_steps) : place + 1]
    return [each for each in recent if each.step > means[place].step - window_steps]
