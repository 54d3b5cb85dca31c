"""What goes wrong in a run on purpose: called in a rank before it trains (`prelude` of ranks.py)."""

import os
import signal
from collections.abc import Callable
from typing import Any


def _around_steps(before: Callable[[Any, Any], None]) -> None:
    """Have `before(run, windows)` called before the forward and backward pass of each training step."""
    from megatron_octo.training import loop

    original = loop.forward_backward

    def forward_backward(run: Any, windows: Any, **options: Any) -> Any:
        if not options.get("forward_only"):
            before(run, windows)
        return original(run, windows, **options)

    loop.forward_backward = forward_backward


def signalled(at: dict[str, int]) -> None:
    """`at["rank"]` gets SIGTERM in step `at["step"]`, counted from 0."""

    def before(run: Any, windows: Any) -> None:
        if run.ranks.rank == at["rank"] and run.progress.step == at["step"]:
            os.kill(os.getpid(), signal.SIGTERM)

    _around_steps(before)


def poisoned(at: dict[str, Any]) -> None:
    """In the steps `at["steps"]` the gradient of `at["rank"]` is `at["factor"]` times what it should be; its loss is not."""
    from megatron_octo.training import loop

    factor = {"now": 1.0}

    def before(run: Any, windows: Any) -> None:
        factor["now"] = (
            float(at["factor"]) if run.ranks.rank == at["rank"] and run.progress.step in at["steps"] else 1.0
        )

    _around_steps(before)
    original = loop._mean_loss

    def mean_loss(*arguments: Any) -> Any:
        loss, nothing = original(*arguments)
        return loss * factor["now"], nothing

    loop._mean_loss = mean_loss


def poisoned_and_signalled(at: dict[str, Any]) -> None:
    """`poisoned`, and SIGTERM in the last of the steps."""
    poisoned(at)
    signalled({"rank": at["rank"], "step": at["steps"][-1]})


def lossless(at: dict[str, Any]) -> None:
    """The output table of one rank becomes NaN for step `at["step"]`, so its loss is not a number."""

    def before(run: Any, windows: Any) -> None:
        if run.ranks.rank == at["rank"]:
            table = next(run.model[0].parameters()).data
            if run.progress.step == at["step"]:
                before.kept = table.clone()
                table.fill_(float("nan"))
            elif run.progress.step == at["step"] + 1:
                table.copy_(before.kept)

    _around_steps(before)


def disk_full_for_rows(at: dict[str, list[int]]) -> None:
    """The calls `at["calls"]` to write a row of metrics fail as on a full disk, counted from 1."""
    import errno

    from megatron_octo.training import tracking

    calls = {"made": 0}

    class FullDisk:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def write(self, descriptor: int, data: bytes) -> int:
            calls["made"] += 1
            if calls["made"] in at["calls"]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return os.write(descriptor, data)

    tracking.os = FullDisk()


def without_p2p_overlap(_: Any) -> None:
    """Megatron's config of virtual pipeline stages as one could write it, had our config not refused it."""
    _change_transformer_config(overlap_p2p_comm=False, batch_p2p_comm=True)


def _change_transformer_config(**changes: Any) -> None:
    from megatron_octo.training import megatron

    original = megatron.transformer_config

    def transformer_config(*arguments: Any, **settings: Any) -> Any:
        config = original(*arguments, **settings)
        for name, value in changes.items():
            setattr(config, name, value)
        return config

    megatron.transformer_config = transformer_config


def fp8(_: Any) -> None:
    """fp8 asked of Megatron where there is no Transformer Engine, past our refusal."""
    _change_transformer_config(fp8="hybrid", fp8_recipe="tensorwise")
