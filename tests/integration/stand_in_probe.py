"""Trains, saves and loads with one of the CPU stand-ins left out, and says whether that raised an error.

`python stand_in_probe.py SCRATCH SCENARIO:NAME...` prints one JSON object: SCENARIO:NAME -> error, or null when all went well.
The name `nothing` leaves nothing out. Megatron is imported once; every rank of every scenario is a fork of this process.
"""

import dataclasses
import functools
import importlib
import json
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

#: Longer than any scenario takes; a checkpoint writer that died lets Megatron wait for ever.
TIMEOUT_SECONDS = 60


def main() -> None:
    importlib.import_module("megatron_octo.training.loop")  # before the forks, once

    scratch, found = Path(sys.argv[1]), {}
    for word in sys.argv[2:]:
        scenario, _, name = word.partition(":")
        found[word] = run(SCENARIOS[scenario], scratch / word, [] if name == "nothing" else [name])
    print(json.dumps(found))


@dataclasses.dataclass(frozen=True)
class Scenario:
    """What trains three steps, and the third again from the checkpoint after the second."""

    ranks: int = 1
    tensor: int = 1
    pipeline: int = 1
    precision: str = "fp32"
    distributed_optimizer: bool = True


SCENARIOS = {
    "one": Scenario(),
    "tp2": Scenario(ranks=2, tensor=2),
    "pp2": Scenario(ranks=2, pipeline=2),
    "dp2": Scenario(ranks=2),
    "bf16": Scenario(precision="bf16"),
    "plain_optimizer": Scenario(distributed_optimizer=False),
}


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
    unbroken, resumed = (json.loads((scratch / name).read_text()) for name in ("unbroken", "resumed"))
    return None if resumed == unbroken[-1:] else f"resumed {resumed} is not the end of {unbroken}"


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
    from megatron_octo.training.config import Precision
    from megatron_octo.training.data import SampleOrder, TokenStream
    from megatron_octo.training.loop import train
    from megatron_octo.training.parallelism import Parallelism

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
    check_random_state()
    streams = [
        TokenStream(name=share.corpus, shards=(np.arange(1000) % tiny.VOCAB_SIZE,), seq_length=recipe.seq_length)
        for share in recipe.blend.shares
    ]
    order = SampleOrder(blend=recipe.blend, streams=streams, seed=1, phase="probe")

    model = megatron.wrap(megatron.build_gpt(recipe.model, megatron.gpt_config(recipe)), recipe)
    optimizer = megatron.build_optimizer(model, recipe)
    check_weight_decay(model, optimizer)
    progress = checkpoint.Progress()
    if resume:
        progress = checkpoint.load(checkpoint.at_step(scratch, 2), model=model, optimizer=optimizer)

    rows = []

    def save() -> None:
        if not resume and progress.step == 2:
            checkpoint.save(scratch, model=model, optimizer=optimizer, progress=progress, keep=1)

    train(
        recipe, model=model, optimizer=optimizer, order=order, ranks=ranks, progress=progress,
        on_step=lambda row: rows.append({key: row[key] for key in ("step", "loss", "grad_norm")}), on_checkpoint=save,
    )  # fmt: skip
    if ranks.rank == 0:
        (scratch / ("resumed" if resume else "unbroken")).write_text(json.dumps(rows))


def check_random_state() -> None:
    """Megatron's named random states work on the CPU's generator. Left out, `set_rng_state` raises nothing of its own."""
    import torch
    from megatron.core.tensor_parallel import get_cuda_rng_tracker

    outside, tracker = torch.get_rng_state(), get_cuda_rng_tracker()
    tracker.add("probe", 7)
    with tracker.fork("probe"):
        drawn = torch.rand(3)
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(7))), "the forked state is another"
    assert torch.equal(torch.get_rng_state(), outside), "the fork disturbs the state outside"


def check_weight_decay(model: Any, optimizer: Any) -> None:
    """A step without gradients at rate 0.1 and decay 0.5 takes a twentieth off the matrices and leaves the norms alone."""
    from megatron_octo.training import megatron

    before = {name: parameter.detach().float().clone() for name, parameter in model.named_parameters()}
    model.zero_grad_buffer()
    megatron.set_learning_rate(optimizer, 0.1, 0.5)
    optimizer.step()
    for name, parameter in model.named_parameters():
        kept = 1.0 if "norm" in name else 0.95
        assert parameter.detach().float().allclose(before[name] * kept, rtol=1e-2), name  # bf16 has three digits


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
