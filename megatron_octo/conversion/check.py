"""Proof of a conversion: the tensors of two checkpoints, each read through its own plan, hold the same bytes.

Costs one pass over both. Memory is bounded by workers x two blocks.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from megatron_octo import progress
from megatron_octo.conversion.plan import Wanted
from megatron_octo.conversion.sources import Sources, blocks


def differing(one: Sequence[Wanted], other: Sequence[Wanted], *, workers: int, advance: progress.Advance) -> list[str]:
    """Names of the tensors that are not the same, byte for byte; `advance` counts the bytes of one side.

    Args:
        one: what was converted.
        other: what it became, read afresh; the same names, shapes and number formats in the same order.

    Raises:
        ArtifactError: a file of either is missing or ends early.
    """
    assert [_description(wanted) for wanted in one] == [_description(wanted) for wanted in other]
    found = []
    with Sources() as sources, ThreadPoolExecutor(workers) as pool:
        # The first error cancels what has not begun.
        results = pool.map(lambda left, right: equal(sources, left, right), one, other)
        for wanted, same in zip(one, results, strict=True):
            if not same:
                found.append(wanted.name)
            advance(wanted.num_bytes)
    return found


def equal(sources: Sources, one: Wanted, other: Wanted) -> bool:
    """Whether two tensors hold the same bytes."""
    return all(np.array_equal(sources.gather(one, *block), sources.gather(other, *block)) for block in blocks(one))


def _description(wanted: Wanted) -> tuple[object, ...]:
    return wanted.name, wanted.dtype, wanted.shape
