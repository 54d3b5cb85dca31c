"""Trains, saves and loads with one of the CPU stand-ins left out, and says what became of it.

`python stand_in_probe.py SCRATCH [NAME...]` prints one JSON object: name -> error of the first scenario that broke, or null.
The name `nothing` leaves nothing out. Megatron is imported once; every rank of every scenario is a fork of this process.
"""

import dataclasses
import functools
import json
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

#: Longer than any scenario takes; a checkpoint writer that died lets Megatron wait for ever.
TIMEOUT_SECONDS = 60


def main() -> None:
    from megatron_octo.training import checkpoint, cpu, loop, megatron  # noqa: F401  imported before the forks, once

    scratch, names = Path(sys.argv[1]), sys.argv[2:]
    found = {}
    for name in names:
        for scenario in scenarios():
            found[name] = run(scenario, scratch / name.replace("/", "_"), [] if name == "nothing" else [name])
            if found[name] is not None:
                break
    print(json.dumps(found))


@dataclasses.dataclass(frozen=True)
class Scenario:
    ranks: int
    tensor: int = 1
    pipeline: int = 1
    precision: str = "fp32"
    distributed_optimizer: bool = True


def scenarios() -> list[Scenario]:
    """What training does on a CPU; each trains two steps, saves, and goes on from the checkpoint in a new model."""
    return [
        Scenario(ranks=1),
        Scenario(ranks=2, tensor=2),
        Scenario(ranks=2, pipeline=2),
        Scenario(ranks=2),
        Scenario(ranks=1, precision="bf16"),
        Scenario(ranks=1, distributed_optimizer=False),
    ]


def run(scenario: Scenario, scratch: Path, without: list[str]) -> str | None:
    """Fork the ranks, wait for them; the error of the first that failed, None when all is well."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    port = free_port()
    children = [fork_rank(scenario, rank, port, scratch, without) for rank in range(scenario.ranks)]
    error = wait(children, scratch)
    for child in children:
        if error is not None:
            kill_group(child)
    return error


def wait(children: list[int], scratch: Path) -> str | None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    left = set(children)
    while left and time.monotonic() < deadline:
        for child in list(left):
            done, status = os.waitpid(child, os.WNOHANG)
            if done and status:
                return (scratch / f"error{children.index(child)}").read_text()
            left -= {done}
        time.sleep(0.02)
    return f"no end after {TIMEOUT_SECONDS} seconds" if left else None


def kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
        os.waitpid(leader, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def fork_rank(scenario: Scenario, rank: int, port: int, scratch: Path, without: list[str]) -> int:
    child = os.fork()
    if child:
        return child
    os.setpgid(0, 0)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(scenario.ranks), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    try:
        train_save_load(scenario, scratch, without)
    except BaseException as error:  # noqa: BLE001  whatever it is, the parent wants to know
        (scratch / f"error{rank}").write_text(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
        os._exit(1)
    os._exit(0)


def train_save_load(scenario: Scenario, scratch: Path, without: list[str]) -> None:
    import numpy as np
    import tiny_training as tiny

    from megatron_octo.training import checkpoint, cpu, megatron
    from megatron_octo.training.config import Parallelism, Precision
    from megatron_octo.training.data import SampleOrder, TokenStream
    from megatron_octo.training.loop import train

    cpu.install = functools.partial(cpu.install, without=without)
    recipe = dataclasses.replace(
        tiny.phase("probe", steps=3, save_interval_tokens=2 * tiny.STEP),
        precision=Precision(scenario.precision),
        parallelism=Parallelism(
            tensor_model_parallel_size=scenario.tensor,
            pipeline_model_parallel_size=scenario.pipeline,
            use_distributed_optimizer=scenario.distributed_optimizer,
        ),
    )
    ranks = megatron.initialize(recipe.parallelism, recipe.seed)
    streams = [
        TokenStream(name=share.corpus, shards=(np.arange(1000) % tiny.VOCAB_SIZE,), seq_length=recipe.seq_length)
        for share in recipe.blend.shares
    ]
    order = SampleOrder(blend=recipe.blend, streams=streams, seed=1, phase="probe")

    def go(until: int, progress: checkpoint.Progress | None) -> list[dict[str, float]]:
        """Train a new model to a step, from the newest checkpoint unless progress is given."""
        model = megatron.wrap(megatron.build_gpt(recipe.model, megatron.gpt_config(recipe)), recipe)
        optimizer = megatron.build_optimizer(model, recipe)
        if progress is None:
            progress = checkpoint.load(checkpoint.at_step(scratch, 2), model=model, optimizer=optimizer)
        rows: list[dict[str, float]] = []

        def save() -> None:
            checkpoint.save(scratch, model=model, optimizer=optimizer, progress=progress, keep=5)

        shorter = dataclasses.replace(recipe, train_tokens=until * tiny.STEP)
        train(
            shorter, model=model, optimizer=optimizer, order=order, ranks=ranks, progress=progress,
            on_step=rows.append, on_checkpoint=save,
        )  # fmt: skip
        return rows

    unbroken = go(3, checkpoint.Progress())
    resumed = go(3, None)
    assert resumed[0]["loss"] == unbroken[2]["loss"], (resumed, unbroken)
    assert resumed[0]["grad_norm"] == unbroken[2]["grad_norm"], (resumed, unbroken)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
