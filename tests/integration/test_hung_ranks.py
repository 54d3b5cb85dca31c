"""Real gloo ranks, of which one hangs: the watchdog names it and every rank leaves.

Most are driven by a small loop of two collectives per step (`drive`), so that each place to hang is hit exactly; one trains.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
from ranks import Ended, Ranks

from megatron_octo.training import state
from megatron_octo.training.config import RunOptions
from megatron_octo.training.state import Reason
from megatron_octo.training.watchdog import EXIT_HUNG, Watchdog

TIMEOUT_SECONDS = 2.0
STEPS = 5
#: What SIGKILL leaves: the test's clean-up of a rank that was stopped.
KILLED = -signal.SIGKILL


def drive(argument: dict[str, Any]) -> None:
    """The prelude: `STEPS` steps of nothing, with a fault in some ranks from the fourth on."""
    import torch

    torch.distributed.init_process_group("gloo")
    try:
        _steps(argument)
    except ValueError:
        time.sleep(30)  # an exception on its way up may wait for the others, too
    torch.distributed.barrier()
    print("all steps made", flush=True)
    os._exit(0)


def _steps(argument: dict[str, Any]) -> None:
    import torch

    rank = torch.distributed.get_rank()
    store = torch.distributed.distributed_c10d._get_default_store()
    with Watchdog(
        timeout_seconds=TIMEOUT_SECONDS, rank=rank, world_size=torch.distributed.get_world_size(), store=store,
        directory=Path(argument["out"]), say=lambda text: print(text, file=sys.stderr, flush=True),
    ) as watchdog:  # fmt: skip
        for step in range(STEPS):
            for doing in ("data", "forward_backward", "optimizer"):
                watchdog.at(step, doing)
                if step >= 3 and doing == argument["doing"] and rank in argument["ranks"]:
                    FAULTS[argument["fault"]]()
                if doing != "data":
                    torch.distributed.all_reduce(torch.ones(4))


def sleeps() -> None:
    time.sleep(60)


def is_slow() -> None:
    time.sleep(0.6 * TIMEOUT_SECONDS)


def is_stopped() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def is_stopped_for_a_while() -> None:
    command = f"sleep {1.5 * TIMEOUT_SECONDS}; kill -CONT {os.getpid()}"
    with subprocess.Popen(["sh", "-c", command]):
        os.kill(os.getpid(), signal.SIGSTOP)


def fails() -> None:
    raise ValueError("a truncated shard")


def keeps_the_interpreter_lock() -> None:
    ctypes.PyDLL(None).sleep(60)


def waits_for_the_other() -> None:
    """Two collectives in two groups, begun by each rank in another order."""
    import torch

    groups = [torch.distributed.new_group(), torch.distributed.new_group()]
    torch.distributed.all_reduce(torch.ones(1), group=groups[torch.distributed.get_rank()])


FAULTS = {
    function.__name__: function
    for function in (
        sleeps,
        is_slow,
        is_stopped,
        is_stopped_for_a_while,
        fails,
        keeps_the_interpreter_lock,
        waits_for_the_other,
    )
}


def run(
    ranks: Ranks, out: Path, fault: str, *, at: tuple[int, ...], doing: str = "forward_backward", size: int = 2
) -> Ended:
    job = tiny.job(out, "watched", tiny.phase("watched", steps=1), ranks=size)
    return ranks.run(
        job, prelude="test_hung_ranks:drive", timeout=40.0,
        argument={"out": str(job.out), "fault": fault, "ranks": at, "doing": doing},
    )  # fmt: skip


def verdict(out: Path, ended: Ended) -> str:
    """What the ranks say, after checks that they say it once, and that it stands in every place."""
    text = (out / "watched/logs/stacks/verdict.txt").read_text()
    found = state.read(out / "watched")
    assert found is not None
    assert found.detail is not None
    assert found.reason is Reason.HUNG
    assert text.strip().endswith(found.detail)
    assert "".join(ended.said).count(found.detail) == 1
    return found.detail


@pytest.mark.slow
def test_a_rank_that_hangs_in_its_data_is_named(ranks: Ranks, tmp_path: Path) -> None:
    ended = run(ranks, tmp_path, "sleeps", at=(1,), doing="data")
    assert ended.codes == (EXIT_HUNG, EXIT_HUNG)
    text = verdict(tmp_path, ended)
    assert "behind the others is rank 1" in text
    assert "after step 3, data, for" in text
    assert "test_hung_ranks.py" in text
    assert "in sleeps" in text
    assert "in sleeps" in (tmp_path / "watched/logs/stacks/rank1.txt").read_text()
    assert "all_reduce" in (tmp_path / "watched/logs/stacks/rank0.txt").read_text()


def sleep_in_reading(_: None) -> None:
    """The prelude of a training run whose rank 1 never gets its third batch."""
    from megatron_octo.training import loop

    read_step = loop.read_step

    def read_until_the_third(*arguments: Any) -> Any:
        if os.environ["RANK"] == "1" and arguments[-1] == 2:
            time.sleep(60)
        return read_step(*arguments)

    loop.read_step = read_until_the_third


@pytest.mark.slow
def test_a_training_run_names_the_rank_that_waits_for_its_data(ranks: Ranks, tmp_path: Path) -> None:
    for seed, corpus in enumerate(("prose", "code")):
        tiny.write_shards(tmp_path / "shards", corpus, windows=20, seed=seed)
    job = tiny.job(tmp_path, "watched", tiny.phase("watched", steps=6), ranks=2)
    job = replace(job, config=replace(job.config, options=RunOptions(watchdog_seconds=TIMEOUT_SECONDS)))
    ended = ranks.run(job, prelude="test_hung_ranks:sleep_in_reading", timeout=60.0)
    assert ended.codes == (EXIT_HUNG, EXIT_HUNG), ended.said
    assert "behind the others is rank 1" in verdict(tmp_path, ended)
    assert "after step 2, data, for" in verdict(tmp_path, ended)


@pytest.mark.slow
def test_at_the_same_place_the_rank_that_waits_for_nobody_is_named(ranks: Ranks, tmp_path: Path) -> None:
    ended = run(ranks, tmp_path, "sleeps", at=(1,))
    assert ended.codes == (EXIT_HUNG, EXIT_HUNG)
    text = verdict(tmp_path, ended)
    assert "rank 1 on" in text
    assert "in sleeps; the others wait" in text
    assert "rank 0" not in text


@pytest.mark.slow
def test_a_stopped_rank_is_named(ranks: Ranks, tmp_path: Path) -> None:
    ended = run(ranks, tmp_path, "is_stopped", at=(1,))
    assert ended.codes == (EXIT_HUNG, KILLED)
    assert f"rank 1 on {os.uname().nodename} does not answer" in verdict(tmp_path, ended)


@pytest.mark.slow
def test_the_rank_with_the_store_is_named_when_it_is_stopped(ranks: Ranks, tmp_path: Path) -> None:
    ended = run(ranks, tmp_path, "is_stopped", at=(0,), size=3)
    assert ended.codes == (KILLED, EXIT_HUNG, EXIT_HUNG)
    assert "the store on rank 0 (127.0.0.1) does not answer: rank 0 is the one that hangs" in verdict(tmp_path, ended)


@pytest.mark.slow
def test_a_rank_whose_c_call_keeps_the_interpreter_lock_is_named_and_ends(ranks: Ranks, tmp_path: Path) -> None:
    ended = run(ranks, tmp_path, "keeps_the_interpreter_lock", at=(1,))
    assert ended.codes == (EXIT_HUNG, 1)
    assert f"rank 1 on {os.uname().nodename} does not answer" in verdict(tmp_path, ended)
    assert "in keeps_the_interpreter_lock" in ended.said[1]


@pytest.mark.slow
def test_ranks_that_wait_for_each_other_are_not_accused(ranks: Ranks, tmp_path: Path) -> None:
    ended = run(ranks, tmp_path, "waits_for_the_other", at=(0, 1))
    assert ended.codes == (EXIT_HUNG, EXIT_HUNG)
    text = verdict(tmp_path, ended)
    assert "all ranks wait for each other: rank 0 on" in text
    assert "rank 1 on" in text


@pytest.mark.slow
def test_a_single_process_that_hangs_ends_too(ranks: Ranks, tmp_path: Path) -> None:
    ended = run(ranks, tmp_path, "sleeps", at=(0,), doing="data", size=1)
    assert ended.codes == (EXIT_HUNG,)
    assert "rank 0 on" in verdict(tmp_path, ended)


@pytest.mark.slow
def test_a_rank_that_failed_and_stays_is_named_with_its_error(ranks: Ranks, tmp_path: Path) -> None:
    ended = run(ranks, tmp_path, "fails", at=(1,))
    assert ended.codes == (EXIT_HUNG, KILLED)
    assert "left after step 3 with ValueError: a truncated shard; the others wait" in verdict(tmp_path, ended)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["is_slow", "is_stopped_for_a_while"])
def test_a_run_that_is_slow_or_suspended_is_left_alone(ranks: Ranks, tmp_path: Path, fault: str) -> None:
    ended = run(ranks, tmp_path, fault, at=(0, 1))
    assert ended.codes == (0, 0)
    assert all("all steps made" in said for said in ended.said)
    assert not (tmp_path / "watched/logs/stacks").exists()
