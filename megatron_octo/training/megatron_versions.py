"""Where the versions of Megatron-Core that training runs on differ, 0.16.1 and 0.17.1: both take part in `make test-megatron`.

Which versions those are stands in compatibility.py, with what keeps later ones out.
"""

from collections.abc import Callable
from typing import Any

from megatron.core import __version__
from megatron.core.dist_checkpointing.strategies import common

BEFORE_0_17 = __version__.startswith("0.16.")

#: Writes `common.pt`: what of a checkpoint is the same on every rank, and its directory. 0.17 has a function instead of strategies.
save_common: Callable[[dict[str, Any], str], None] = (
    common.TorchCommonSaveStrategy("torch", 1).save_common if BEFORE_0_17 else common.save_common
)
#: Further arguments of `async_save`: 0.17 saves through nvidia-resiliency-ext unless it is told not to.
ASYNC_SAVE: dict[str, str] = {} if BEFORE_0_17 else {"async_strategy": "mcore"}
