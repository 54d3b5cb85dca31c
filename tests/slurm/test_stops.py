"""Training that is told to stop, that loses its node, that is cancelled: it goes on where it was, and what comes next waits."""

import sys
from collections.abc import Callable
from datetime import datetime
from functools import cache
from pathlib import Path

import pytest
from daemons import MiniSlurm, ask, field, left_of
from runs import PLACE, Octo, rows, sessions
from tiny_training import OptimizerState, branch, job, phase, write_shards

from megatron_octo import artifacts, config, jsonl
from megatron_octo.launch import cluster, local
from megatron_octo.launch.place import Place
from megatron_octo.launch.slurm import ledger

HERE = Path(__file__).parent
STEPS, SAVE_EVERY = 250, 25
LONG = phase("long", steps=STEPS, save_interval_tokens=SAVE_EVERY * 64)
#: What stops a run has its time; once there is a checkpoint to go on from, it is quick.
SLOWLY_AT_FIRST = """#!/bin/sh
[ "$2" = megatron_octo.training.run ] && ! [ -e "$4/checkpoints/latest" ] || exec {python} "$@"
shift 2
exec {python} {slowly} {step} {save} "$@"
"""
STEP_SECONDS = 0.25


class Run:
    """A stable run in `root/long`, and `root/next`, which starts from its end."""

    def __init__(self, root: Path, *, ranks: int = 1) -> None:
        self.root = root
        write_shards(root / "shards", "prose", windows=200, seed=1)
        write_shards(root / "shards", "code", windows=200, seed=2)
        after = branch(LONG, "next", steps=2, at_step=STEPS, state=OptimizerState.CARRY)
        self.jobs = [job(root, "long", LONG, ranks=ranks), job(root, "next", after, parent="long")]
        self.out, self.logs = self.jobs[0].out, self.jobs[0].logs

    def submit(self, *, save: float, nodes: int = 1, alone: bool = False, **changes: object) -> None:
        python = self.root / "python"
        words = {"python": sys.executable, "slowly": HERE / "slowly.py", "step": STEP_SECONDS, "save": save}
        python.write_text(SLOWLY_AT_FIRST.format(**words))
        python.chmod(0o755)
        own = {"pythons": {"megatron_octo.training.run": str(python)}, "submitter": "sbatch", "cpus_per_node": 1}
        place = config.from_dict(Place, PLACE | own | changes)
        cluster.run(self.jobs[:1] if alone else self.jobs, place, nodes, self.root, "train", False)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(id_ for entry in ledger.read(self.root).jobs.values() for id_ in entry.ids)

    @property
    def id(self) -> str:
        """Of the long run's first job."""
        return ledger.read(self.root).jobs["long"].ids[0]

    def trains(self, step: int = 5) -> bool:
        return (self.out / "metrics.jsonl").exists() and len(rows(self.out)) >= step

    def verdicts(self) -> tuple[str, ...]:
        return tuple(session["verdict"] for session in sessions(self.logs))

    def longest_save(self) -> float:
        """Seconds from the step in which a session was told to stop to its end."""
        steps = [row["unix_seconds"] for row in jsonl.read(self.out / "metrics.jsonl")]
        ends = [datetime.fromisoformat(session["ended"]).timestamp() for session in sessions(self.logs)[:-1]]
        return max(end - max([seconds for seconds in steps if seconds <= end], default=end) for end in ends)

    def next_waited(self) -> bool:
        began = self.jobs[1].logs / "session-0" / ".started"
        return began.stat().st_mtime >= (self.out / artifacts.MARK).stat().st_mtime


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[dict[str, object]]]:
    """Rows of a run on this machine that nobody stopped."""

    @cache
    def run(ranks: int) -> list[dict[str, object]]:
        whole = Run(tmp_path_factory.mktemp("unbroken"), ranks=ranks)
        local.run(whole.jobs[:1], force=False)
        return rows(whole.out)

    return run


def require_finished_as(run: Run, unbroken: Callable[[int], list[dict[str, object]]], ranks: int = 1) -> None:
    """Done, with the metrics of the run that nobody stopped; otherwise what its sessions say is shown."""
    said = [
        f"== {file}\n{file.read_text(errors='replace')[-3000:]}" for file in sorted(run.logs.glob("session-*/*.log"))
    ]
    assert artifacts.is_done(run.out), "\n".join([*map(str, sessions(run.logs)), *said])
    assert rows(run.out) == unbroken(ranks)


@pytest.fixture(scope="module")
def stopped(slurm: MiniSlurm, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Runs that were told to stop in one way each, and are over. All at once: most of the time they wait for saves of 45 seconds."""
    runs = {how: Run(tmp_path_factory.mktemp("stopped")) for how in ("time limit", "urgent job", "no requeue")}
    node1, node2 = ({"nodelist": name} for name in ("node1", "node2"))
    # The signal comes 105 s before the end, and Slurm may be a minute early: on a busy machine before there is anything to save.
    runs["time limit"].submit(save=45, save_seconds=45, time_limit="3", retries=2, sbatch=node1)
    runs["urgent job"].submit(save=45, sbatch=node2)
    runs["no requeue"].submit(save=45, save_seconds=45, restart="chain", copies=3, sbatch=node1)
    slurm.wait(lambda: runs["urgent job"].trains() and runs["no requeue"].trains())
    ask("scancel", "--signal=TERM", runs["no requeue"].id)
    alone_on_node2 = ("--partition=urgent", "--nodelist=node2", "--exclusive", "--output=/dev/null", "--wrap=true")
    urgent = ask("sbatch", "--parsable", *alone_on_node2)
    slurm.wait_for([urgent.strip(), *(id_ for run in runs.values() for id_ in run.ids)])
    return runs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "verdicts"),
    [
        ("time limit", {("requeued", "done"), ("requeued", "requeued", "done")}),
        ("urgent job", {("requeued", "done")}),
        ("no requeue", {("chained", "done", "done")}),
    ],
)
def test_told_to_stop_it_saves_and_goes_on(
    stopped: dict[str, Run], how: str, verdicts: set[tuple[str, ...]], unbroken: Callable[..., object]
) -> None:
    run = stopped[how]
    assert run.verdicts() in verdicts
    assert run.longest_save() >= 44
    require_finished_as(run, unbroken)
    assert artifacts.is_done(run.root / "next")
    assert run.next_waited()


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_node_crashes(slurm: MiniSlurm, tmp_path: Path, nodes: int, unbroken: Callable[..., object]) -> None:
    run = Run(tmp_path, ranks=nodes)
    run.submit(save=0, nodes=nodes, alone=True)
    slurm.wait((run.out / "checkpoints" / "latest").exists)
    crashed = "node2" if nodes == 2 else field(run.id, "NodeList")
    try:
        slurm.call("crash", crashed)
        slurm.wait(lambda: field(run.id, "JobState") in ("PENDING", "REQUEUED") or field(run.id, "Restarts") != "0")
        if nodes == 1:  # the other one is enough
            slurm.wait_for([run.id])
    finally:
        slurm.call("up")
    slurm.wait_for(run.ids)

    require_finished_as(run, unbroken, ranks=nodes)
    assert field(run.id, "Restarts") == "1"
    assert left_of(run.ids) == []


@pytest.mark.slow
@pytest.mark.parametrize(("save", "patience"), [(2, 60), (300, 5)], ids=["saves", "is killed"])
def test_cancelled_it_leaves_no_process_and_nothing_half_written(
    slurm: MiniSlurm, tmp_path: Path, octo: Octo, save: float, patience: int, unbroken: Callable[..., object]
) -> None:
    run = Run(tmp_path)
    run.submit(save=save, save_seconds=patience)
    slurm.wait(lambda: (run.out / "checkpoints" / "latest").exists() and run.trains(SAVE_EVERY + 5))

    octo("cancel", tmp_path)

    assert left_of(run.ids) == []
    assert slurm.alive() == []
    complete = sorted(path.name for path in (run.out / "checkpoints").glob("iter_*"))
    assert (run.out / "checkpoints" / "latest").read_text().strip() == complete[-1]
    saved_at = int(complete[-1].removeprefix("iter_"))
    assert saved_at == rows(run.out)[-1]["step"] if save == 2 else saved_at % SAVE_EVERY == 0
    assert not artifacts.is_done(run.out)
    assert not (tmp_path / "next").exists()

    octo("resume", tmp_path)
    slurm.wait_for(run.ids)
    require_finished_as(run, unbroken)
    assert artifacts.is_done(tmp_path / "next")
    assert list((run.out / "checkpoints").glob(".*")) == []
