r"""Rewards in TRL's signature: one number per completion, keyword arguments in.

The paper's scripts give +1 for a right last `\boxed{}` and -1 for everything else: wrong, no box, not finished
(recipe of the released code, `math_verifier.py`). Accuracy is reported beside the reward, whatever the reward's shape.
"""

from collections.abc import Callable, Sequence
from typing import Any

from megatron_octo.grading import grade_all
from megatron_octo.templates import before_stop

RIGHT, WRONG = 1.0, -1.0


def boxed_reward(
    *,
    completions: Sequence[str],
    completion_ids: Sequence[Sequence[int]],
    answer: Sequence[str],
    finished: Sequence[bool],
    log_metric: Callable[[str, float], None],
    **_: Any,
) -> list[float]:
    r"""+1 where the last `\boxed{}` equals `answer`, else -1."""
    grades = grade_all([before_stop(completion) for completion in completions], answer)
    lengths = [len(ids) for ids, each in zip(completion_ids, grades, strict=True) if each.correct]
    log_metric("accuracy", len(lengths) / len(grades))
    if lengths:
        log_metric("response_length_correct", sum(lengths) / len(lengths))
    log_metric("truncated", 1 - sum(finished) / len(finished))
    log_metric("grading_timeouts", sum(each.timeout for each in grades))
    return [RIGHT if each.correct else WRONG for each in grades]
