"""Which rows of a prompt file OpenRLHF draws after a resume, so that a new stage gets its own prompts and each of them once.

OpenRLHF shuffles, and a loader resumed from a checkpoint skips as many rows as it had drawn, of a new permutation when the
file has grown: a longer file alone would repeat prompts of the stage before and leave out new ones. The permutation follows
from the state in the checkpoint. So the loader is asked what it will draw, and the new prompts are put there.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torchdata.stateful_dataloader import StatefulDataLoader

from megatron_octo.errors import OctoError
from megatron_octo.rl.prompts import Prompt


def for_resumed(checkpoint: Path, *, drawn: Sequence[Prompt], new: Sequence[Prompt]) -> list[Prompt]:
    """`drawn` and `new` in the order of a file from which a run resumed at `checkpoint` draws `new`, in order.

    Raises:
        OctoError: the loader would draw another number of rows.
    """
    indices = remaining(checkpoint, len(drawn) + len(new))
    if len(indices) != len(new):
        raise OctoError(
            f"OpenRLHF resumed from {checkpoint} would draw {len(indices)} prompts where {len(new)} are left; start the run anew"
        )
    at = dict(zip(indices, new, strict=True))
    others = iter(drawn)
    return [at[index] if index in at else next(others) for index in range(len(drawn) + len(new))]


def remaining(checkpoint: Path, length: int) -> list[int]:
    """Rows, in order, that OpenRLHF's loader of a file of `length` rows draws after the resume."""
    # As OpenRLHF 0.11.2 makes it (its `setup_dataloader` in the single controller): one row at a time, shuffled.
    loader: Any = StatefulDataLoader(range(length), batch_size=1, shuffle=True, drop_last=True)
    loader.load_state_dict(_state(checkpoint)["data_loader_state_dict"])
    return [int(batch[0]) for batch in loader]


def _state(checkpoint: Path) -> dict[str, Any]:
    """DeepSpeed's file of rank 0; it keeps what OpenRLHF adds beside the weights, which are mapped and not read."""
    file = sorted(checkpoint.glob("*mp_rank_00_model_states.pt"))[0]
    state: dict[str, Any] = torch.load(file, map_location="cpu", mmap=True, weights_only=False)
    return state
