"""Steps that are left out: a loss or gradient that is not finite, or a gradient norm far above the last ones.

The weights stay as they were, the batch counts as read, and the run goes on; a phase that skips too many steps stops and names
the documents of the last bad batch. The norms remembered are part of the progress, so a resumed run decides as the unbroken
one would have.
"""

import math
import statistics
from collections.abc import Sequence

from megatron_octo.training.config import Anomalies

#: Sequences named for one bad step.
NAMED_SEQUENCES = 5


def reason(anomalies: Anomalies, *, loss: float, grad_norm: float, recent: Sequence[float]) -> str | None:
    """Why a step must be left out, None when it is sound. `recent` are the norms of the last steps taken."""
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(grad_norm):
        return f"the gradient norm is {grad_norm}"
    if anomalies.spike_factor is None or 2 * len(recent) < anomalies.window:
        return None
    median = statistics.median(recent)
    if grad_norm <= anomalies.spike_factor * median:
        return None
    return (
        f"the gradient norm is {grad_norm:.3g}, more than {anomalies.spike_factor:g} times the median {median:.3g} of the last "
        f"{len(recent)}"
    )


def remember(recent: list[float], grad_norm: float, *, window: int) -> None:
    """Append a norm and forget those beyond the window."""
    recent.append(grad_norm)
    del recent[:-window]


def suspects(losses_G: Sequence[float]) -> list[int]:
    """The sequences of a batch to look at first: those without a finite loss, else those with the highest."""
    bad = [index for index, loss in enumerate(losses_G) if not math.isfinite(loss)]
    highest = sorted(range(len(losses_G)), key=lambda index: losses_G[index], reverse=True)
    return (bad or highest)[:NAMED_SEQUENCES]
