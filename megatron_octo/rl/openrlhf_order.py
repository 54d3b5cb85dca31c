"""Which rows of a prompt file OpenRLHF draws after a resume, so that new prompts can be put there and each is drawn once.

OpenRLHF shuffles, and a loader resumed from a checkpoint skips as many rows as it had drawn, of a new permutation when the
file has grown: a longer file alone would repeat prompts that were drawn and leave out new ones. The permutation follows
from the state in the checkpoint. So the loader is asked what it will draw.
"""

from pathlib import Path
from typing import Any

import torch
from torchdata.stateful_dataloader import StatefulDataLoader


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
