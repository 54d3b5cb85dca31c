"""Saving and loading with real ranks: frozen in time, loadable at any layout, refused when damaged, surviving full disks and kills."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import saving_driver  # noqa: F401  the ranks import it by name
import tiny_training as tiny
import torch
from ranks import Ended, Ranks
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from megatron_octo import checksums
from megatron_octo.training import publishing

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:torch.distributed is disabled")]

Run = Callable[..., Ended]
Script = list[tuple[str, dict[str, Any]]]

SAVE_STEP_2: Script = [("steps", {"count": 2}), ("start", {}), ("finish", {})]


@pytest.fixture
def run(ranks: Ranks, tmp_path: Path) -> Run:
    """Run a script of saving_driver.py in some ranks."""

    def in_ranks(
        script: Script, *, count: int = 1, out: Path = tmp_path, kill_after: float | None = None, **driver: Any
    ) -> Ended:
        job = tiny.job(tmp_path, "driven", tiny.phase("driven", steps=1), ranks=count)
        argument = {"driver": {"out": str(out), **driver}, "script": script}
        return ranks.run(job, prelude="saving_driver:run", argument=argument, kill_after=kill_after, timeout=60)

    return in_ranks


def well(ended: Ended) -> Ended:
    assert ended.ok, "\n".join(ended.said)
    return ended


def said(ended: Ended, rank: int = 0) -> list[Any]:
    """What a rank's driver said, in order."""
    return [
        json.loads(line.removeprefix("SAID ")) for line in ended.said[rank].splitlines() if line.startswith("SAID ")
    ]


def complaint(ended: Ended, rank: int = 0) -> str:
    """The exception that ended a rank."""
    return next(line for line in reversed(ended.said[rank].splitlines()) if line.startswith("ENDED "))


def tensors(stage: Path, step: int) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint, whatever layout wrote it."""
    reader = FileSystemReader(stage / "checkpoints" / f"iter_{step:07d}")
    wanted = {
        key: torch.empty(found.size, dtype=found.properties.dtype)
        for key, found in reader.read_metadata().state_dict_metadata.items()
        if isinstance(found, TensorStorageMetadata)
    }
    load(wanted, storage_reader=reader, no_dist=True)
    return {key: value.numpy() for key, value in wanted.items()}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    assert expected.keys() >= {"decoder.layers.mlp.linear_fc1.weight"}
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


def names(stage: Path) -> list[str]:
    """Everything in the directory of the checkpoints."""
    return sorted(path.name for path in (stage / "checkpoints").iterdir())


@pytest.mark.parametrize("layout", [{}, {"use_distributed_optimizer": False}])
def test_the_state_is_frozen_when_the_save_starts(run: Run, tmp_path: Path, layout: dict[str, Any]) -> None:
    """The writer is held until training has changed every weight and moment."""
    held: Script = [
        ("steps", {"count": 2}), ("start", {}), ("signal_writer", {"name": "SIGSTOP"}), ("steps", {"count": 3, "poll": False}),
        ("signal_writer", {"name": "SIGCONT"}), ("finish", {}),
    ]  # fmt: skip
    well(run(held, count=2, out=tmp_path / "held", **layout))
    well(run(SAVE_STEP_2, count=2, out=tmp_path / "waited", **layout))
    assert_same(tensors(tmp_path / "held", 2), tensors(tmp_path / "waited", 2))


@pytest.mark.parametrize(
    ("count", "layout"),
    [
        (2, {}),
        (2, {"tensor_model_parallel_size": 2}),
        (2, {"pipeline_model_parallel_size": 2}),
        (
            2,
            {"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 2, "overlap_p2p_comm": True},
        ),
    ],
)
def test_any_layout_loads_what_any_other_saved(run: Run, tmp_path: Path, count: int, layout: dict[str, Any]) -> None:
    """Weights and optimizer state, bit for bit: from one process and back again."""
    there, back = tmp_path / "there", tmp_path / "back"
    well(run(SAVE_STEP_2, out=tmp_path))
    load_and_save: Script = [("start", {}), ("finish", {})]
    well(run([("load", {"step": 2, "out": str(tmp_path)}), *load_and_save], count=count, out=there, **layout))
    assert_same(tensors(there, 2), tensors(tmp_path, 2))
    well(run([("load", {"step": 2, "out": str(there)}), *load_and_save], out=back))
    assert_same(tensors(back, 2), tensors(tmp_path, 2))


def test_no_step_is_counted_for_each_parameter(run: Run, tmp_path: Path) -> None:
    """Silent: Megatron gives all parameters one `step` tensor at a load, and AdamW adds 1 to it for each of them."""
    well(run(SAVE_STEP_2))
    resume: Script = [("load", {"step": 2}), ("steps", {"count": 10}), ("say_adam_steps", {})]
    assert said(well(run(resume))) == ["adam steps [12.0]"]
    assert said(well(run([("leave_step_shared", {}), *resume]))) != ["adam steps [12.0]"]


def test_old_checkpoints_go_and_some_stay(run: Run, tmp_path: Path) -> None:
    every_step: Script = [("steps", {"count": 1}), ("start", {})] * 7
    well(run([*every_step, ("finish", {})], keep=2, keep_every=3))
    assert names(tmp_path) == ["iter_0000003", "iter_0000006", "iter_0000007", "latest"]
    assert (tmp_path / "checkpoints/latest").read_text() == "iter_0000007\n"


def test_a_save_reports_its_times_and_starts_no_lasting_process(run: Run, tmp_path: Path) -> None:
    ended = well(run([*SAVE_STEP_2, ("say_processes", {}), ("start", {}), ("finish", {})], count=2))
    for rank in range(2):
        saved, processes = said(ended, rank)
        assert processes == "processes []"  # Megatron's manager would be one
        assert saved["step"] == 2
        assert 0 < saved["stall_seconds"] <= saved["total_seconds"]
        files = (tmp_path / "checkpoints/iter_0000002").iterdir()
        assert saved["bytes"] == sum(file.stat().st_size for file in files if file.name != "checksums.json")


def truncate(file: Path) -> str:
    os.truncate(file, file.stat().st_size - 1)
    return "bytes instead of"


def flip_a_bit(file: Path) -> str:
    with file.open("r+b") as stream:
        stream.seek(1000)
        byte = stream.read(1)[0]
        stream.seek(1000)
        stream.write(bytes([byte ^ 1]))
    return "other bytes than were written"


def remove(file: Path) -> str:
    file.unlink()
    return "is missing"


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, remove])
@pytest.mark.parametrize("file", ["__1_0.distcp", "common.pt", ".metadata"])
def test_a_damaged_checkpoint_is_refused_by_every_rank(
    run: Run, saved_twice: Path, tmp_path: Path, damage: Callable[[Path], str], file: str
) -> None:
    shutil.copytree(saved_twice / "checkpoints", tmp_path / "checkpoints")
    what = damage(tmp_path / "checkpoints/iter_0000002" / file)
    ended = run([("load", {"step": 2})], count=2)
    assert ended.codes == (1, 1)
    for rank in range(2):
        message = complaint(ended, rank)
        assert message.startswith("ENDED ArtifactError")
        assert f"iter_0000002 is damaged: {file}" in message
        assert what in message
        assert "complete ones are: iter_0000001; to continue from one, write its name into" in message


@pytest.fixture(scope="module")
def saved_twice(ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage with checkpoints of steps 1 and 2, written by two ranks."""
    out = tmp_path_factory.mktemp("saved_twice")
    script = [("steps", {"count": 1}), ("start", {}), ("steps", {"count": 1}), ("start", {}), ("finish", {})]
    job = tiny.job(out, "driven", tiny.phase("driven", steps=1), ranks=2)
    well(ranks.run(job, prelude="saving_driver:run", argument={"driver": {"out": str(out)}, "script": script}))
    return out


def test_the_checksums_are_those_of_the_files(saved_twice: Path) -> None:
    checkpoint = saved_twice / "checkpoints/iter_0000002"
    listed = checksums.read(checkpoint)
    assert listed is not None
    assert listed == {
        file.name: checksums.of_file(file) for file in checkpoint.iterdir() if file.name != "checksums.json"
    }


def test_one_kind_of_optimizer_refuses_the_other(run: Run, tmp_path: Path) -> None:
    well(run(SAVE_STEP_2, count=2))
    message = complaint(run([("load", {"step": 2})], count=2, use_distributed_optimizer=False))
    assert message.startswith("ENDED ArtifactError")
    assert (
        "use_distributed_optimizer=True, and this run has False; set parallelism.use_distributed_optimizer=True"
        in message
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


FULL_THEN_ROOM: Script = [
    ("steps", {"count": 2}), ("start", {}), ("finish", {}), ("fill_disk", {"leave": 100_000}),
    ("steps", {"count": 1}), ("start", {}), ("sleep", {"seconds": 0.3}), ("steps", {"count": 1}),
    ("fill_disk", {"leave": 8_000_000}), ("start", {}), ("finish", {}),
]  # fmt: skip


def test_a_full_disk_leaves_the_last_checkpoint_and_training_goes_on(run: Run, small_disk: Path) -> None:
    ended = well(run(FULL_THEN_ROOM, count=2, out=small_disk))
    for rank in range(2):
        first, failure, last = said(ended, rank)
        assert (first["step"], last["step"]) == (2, 4)
        assert failure.startswith(
            f"the checkpoint of step 3 could not be written to {small_disk}/checkpoints (rank 0: "
        )
        assert "No space left on device" in failure
        assert "rank 1: " in failure
        assert failure.endswith(
            "free there); the newest valid checkpoint is iter_0000002; training goes on and saves again later"
        )
    assert names(small_disk) == ["iter_0000002", "iter_0000004", "latest"]
    well(run([("load", {"step": 4})], out=small_disk))


def test_the_last_save_must_succeed(run: Run, small_disk: Path) -> None:
    ended = run([*FULL_THEN_ROOM[:6], ("finish", {})], count=2, out=small_disk)
    assert ended.codes == (1, 1)
    assert all(
        complaint(ended, rank).startswith("ENDED SaveFailedError: the checkpoint of step 3") for rank in range(2)
    )
    assert names(small_disk) == ["iter_0000002", "latest"]


def test_three_failures_in_a_row_end_the_run(run: Run, small_disk: Path) -> None:
    again: Script = [("steps", {"count": 1}), ("start", {})]
    ended = run([("fill_disk", {"leave": 100_000}), *again * 9], count=2, out=small_disk)
    assert ended.codes == (1, 1)
    for rank in range(2):
        assert len(said(ended, rank)) == 2
        assert "there is no checkpoint yet; 3 saves in a row failed" in complaint(ended, rank)


@pytest.mark.parametrize("moment", ["before", "meanwhile"])
@pytest.mark.parametrize("rank", [0, 1])
def test_one_rank_that_cannot_write_leaves_no_other_waiting(run: Run, tmp_path: Path, moment: str, rank: int) -> None:
    """Rank 0 writes `common.pt` before its writer starts and `.metadata` after; Megatron's other ranks would wait for ever."""
    limit: Script = [("limit_file_size", {"rank": rank})]
    hold, release = ("signal_writer", {"name": "SIGSTOP"}), ("signal_writer", {"name": "SIGCONT"})
    save: Script = [*limit, ("start", {})] if moment == "before" else [("start", {}), hold, *limit, release]
    ended = run([*SAVE_STEP_2, ("steps", {"count": 1}), *save, ("finish", {})], count=2)
    if (moment, rank) == ("meanwhile", 1):  # its writer was there before the limit, and beside it rank 1 writes nothing
        well(ended)
        return
    assert ended.codes == (1, 1)
    assert ended.seconds < 20
    for teller in range(2):
        assert f"(rank {rank}: " in complaint(ended, teller)
        assert "File too large" in complaint(ended, teller) or "file write failed" in complaint(ended, teller)
    assert names(tmp_path) == ["iter_0000002", "latest"]


def test_a_killed_writer_is_a_failed_save(run: Run, tmp_path: Path) -> None:
    """As the kernel kills it when memory runs out. Megatron waits for ever."""
    kill: Script = [("start", {}), ("signal_writer", {"name": "SIGKILL", "rank": 1}), ("finish", {})]
    ended = run([*SAVE_STEP_2, ("steps", {"count": 1}), *kill], count=2)
    assert ended.seconds < 20
    for rank in range(2):
        assert "rank 1: Worker failure: the process that wrote the checkpoint was killed" in complaint(ended, rank)


def test_signals_are_not_the_writers_business(run: Run, tmp_path: Path) -> None:
    """Slurm and Ctrl-C signal all processes; the rank finishes its step and its save."""
    signals: Script = [("signal_writer", {"name": name}) for name in ("SIGSTOP", "SIGTERM", "SIGINT", "SIGCONT")]
    well(run([("steps", {"count": 2}), ("start", {}), *signals, ("finish", {})]))
    assert names(tmp_path) == ["iter_0000002", "latest"]


def test_a_writer_dies_with_its_rank_and_the_next_run_cleans_up(run: Run, tmp_path: Path) -> None:
    script: Script = [
        *SAVE_STEP_2, ("steps", {"count": 1}), ("start", {}), ("signal_writer", {"name": "SIGSTOP"}), ("say_processes", {}),
        ("die", {}),
    ]  # fmt: skip
    ended = run(script)
    assert ended.codes == (-signal.SIGKILL,)
    _, processes = said(ended)
    (writer,) = json.loads(processes.removeprefix("processes "))
    os.kill(writer, signal.SIGCONT)
    deadline = time.monotonic() + 5
    while Path(f"/proc/{writer}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{writer}").exists()
    assert [name.partition(".")[2][:12] for name in names(tmp_path) if name.startswith(".")] == ["iter_0000003"]
    well(run([("load", {"step": 2})]))
    assert names(tmp_path) == ["iter_0000002", "latest"]


def test_a_step_saved_already_is_not_saved_again(run: Run, tmp_path: Path) -> None:
    assert [saved["step"] for saved in said(well(run([*SAVE_STEP_2, ("start", {}), ("finish", {})])))] == [2]


def test_a_save_that_waits_is_done_when_it_returns(run: Run, tmp_path: Path) -> None:
    (saved,) = said(well(run([("steps", {"count": 2}), ("start", {})], asynchronous=False)))
    assert saved["stall_seconds"] == pytest.approx(saved["total_seconds"], abs=0.01)
    assert publishing.named_latest(tmp_path / "checkpoints") == "iter_0000002"
