"""The one schema of metrics for both engines: a step's rollouts and what the engine logged in, one flat row out.

Training, one row per step (`step` counts batches of prompts from 1; a mean is over the step's responses):

    key                      unit        meaning
    prompts                  prompts     that were sampled; dynamic sampling trains on fewer
    reward                   reward      mean
    accuracy                 share       right responses, whatever the shape of the reward
    response_length          tokens      mean, EOS included
    response_length_p95      tokens      95 % of the responses are no longer
    response_length_correct  tokens      mean of the right ones; None without any
    truncated                share       responses that reached the cap
    repetition               share       20-grams of characters seen before in their response, mean
    boxed                    share       responses with exactly one closed box
    groups_without_spread    share       prompts whose samples all got the same reward, from which nothing is learned
    grading_timeouts         responses   the grader gave up on
    entropy                  nats/token  of the policy where it sampled
    kl                       nats/token  distance to the starting model
    clip_low, clip_high      share       tokens whose probability ratio was clipped from below, from above
    clip                     share       either
    learning_rate, grad_norm -           of the step's last optimizer update, or their mean where the engine gives that
    seconds                  s           of the whole step; seconds_generation, seconds_training, seconds_sync: parts of it

What an engine does not log is None. Evaluation, one row per set and evaluated step (0 is the starting model), each key as
`eval/<name>/<key>`: accuracy, response_length, response_length_p95, response_length_correct, truncated and repetition as above,
and `questions`, how many were asked.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from megatron_octo.rl.rollouts import Rollout

Row = Mapping[str, float | int | None]


@dataclass(frozen=True, kw_only=True)
class EngineLog:
    """What only the engine knows of a step; units in the table above."""

    entropy: float | None = None
    kl: float | None = None
    clip_low: float | None = None
    clip_high: float | None = None
    clip: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    seconds: float | None = None
    seconds_generation: float | None = None
    seconds_training: float | None = None
    seconds_sync: float | None = None


def training_row(step: int, rollouts: Sequence[Rollout], log: EngineLog) -> Row:
    """One step of training."""
    groups = defaultdict(set)
    for rollout in rollouts:
        groups[rollout.prompt].add(rollout.reward)
    return {
        "step": step,
        "prompts": len(groups),
        "reward": _mean([each.reward for each in rollouts]),
        **_responses(rollouts),
        "boxed": _mean([each.boxes == 1 for each in rollouts]),
        "groups_without_spread": _mean([len(rewards) == 1 for rewards in groups.values()]),
        "grading_timeouts": sum(each.timeout for each in rollouts),
        **asdict(log),
    }


def evaluation_row(step: int, name: str, rollouts: Sequence[Rollout]) -> Row:
    """One evaluation set at one step."""
    measured = {**_responses(rollouts), "questions": len(rollouts)}
    return {"step": step, **{f"eval/{name}/{key}": value for key, value in measured.items()}}


def step_of(row: Row) -> int:
    step = row["step"]
    assert step is not None, "every row has one"
    return int(step)


def _responses(rollouts: Sequence[Rollout]) -> dict[str, float | None]:
    """What training and evaluation have in common."""
    lengths = sorted(each.tokens for each in rollouts)
    correct = [each.tokens for each in rollouts if each.correct]
    return {
        "accuracy": _mean([each.correct for each in rollouts]),
        "response_length": _mean(lengths),
        "response_length_p95": lengths[math.ceil(0.95 * len(lengths)) - 1],
        "response_length_correct": _mean(correct) if correct else None,
        "truncated": _mean([not each.finished for each in rollouts]),
        "repetition": _mean([each.repetition for each in rollouts]),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
