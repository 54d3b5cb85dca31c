"""Trains, saves and loads with one of the CPU stand-ins left out, and says whether that raised an error.

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
TIMEOUT_SECONDS = 30


def main() -> None:
    import megatron_octo.training.loop  # before the forks, once

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
    """What training does on a CPU; each trains three steps, and the third again from the checkpoint after the second."""
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
    for resume in (False, True):
        port = free_port()
        children = [fork_rank(scenario, rank, port, scratch, without, resume) for rank in range(scenario.ranks)]
        error = wait(children, scratch)
        for child in children:
            kill_group(child)
        if error is not None:
            return error
    return None


def wait(children: list[int], scratch: Path) -> str | None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    left = set(children)
    while left and time.monotonic() < deadline:
        for child in list(left):
            done, status = os.waitpid(child, os.WNOHANG)
            if done and status:
                file = scratch / f"error{children.index(child)}"
                return file.read_text() if file.exists() else f"ended with status {status}"
            left -= {done}
        time.sleep(0.02)
    return f"no end after {TIMEOUT_SECONDS} seconds" if left else None


def kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
        os.waitpid(leader, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def fork_rank(scenario: Scenario, rank: int, port: int, scratch: Path, without: list[str], resume: bool) -> int:
    child = os.fork()
    if child:
        return child
    os.setpgid(0, 0)
    # Megatron's writer leaves a helper process behind when its owner dies; it must not hold the pipe to the test.
    log = os.open(scratch / f"log{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(scenario.ranks), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    try:
        train_save_load(scenario, scratch, without, resume)
    except BaseException as error:  # noqa: BLE001  whatever it is, the parent wants to know
        (scratch / f"error{rank}").write_text(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
        os._exit(1)
    os._exit(0)


def train_save_load(scenario: Scenario, scratch: Path, without: list[str], resume: bool) -> None:
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

    model = megatron.wrap(megatron.build_gpt(recipe.model, megatron.gpt_config(recipe)), recipe)
    optimizer = megatron.build_optimizer(model, recipe)
    progress = checkpoint.Progress()
    if resume:
        progress = checkpoint.load(checkpoint.at_step(scratch, 2), model=model, optimizer=optimizer)

    def save() -> None:
        if not resume and progress.step == 2:
            checkpoint.save(scratch, model=model, optimizer=optimizer, progress=progress, keep=1)

    train(
        recipe, model=model, optimizer=optimizer, order=order, ranks=ranks, progress=progress,
        on_step=lambda row: None, on_checkpoint=save,
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
