"""What would fail at a place is said before anything is submitted. Slurm's commands are stand-ins that answer as 22.05 does."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_octo import recipes
from megatron_octo.errors import ConfigError
from megatron_octo.launch.jobs import Job
from megatron_octo.launch.place import Container, Kind, Place, Restart, Submitter
from megatron_octo.launch.preflight import checklist, submission
from megatron_octo.launch.preflight.checklist import Check, State
from megatron_octo.launch.preflight.training import Assumed, gpu_bytes
from megatron_octo.launch.slurm import partitions
from megatron_octo.launch.slurm.partitions import Partition
from megatron_octo.training import estimate
from megatron_octo.training.config import TrainingJob

SINFO = """\
h100*|32|112|2000000|gpu:h100:8(S:0-1)|2-00:00:00
cpu|10|64|500000|(null)|infinite
cpu|2|128+|1000000|(null)|infinite
"""
STUBS = {
    "sinfo": f"cat <<'END'\n{SINFO}END",
    # It reads the script, as the real one does.
    "sbatch": 'test "$1" = --test-only && grep -q "^srun " && echo "sbatch: Job 7 to start at 2026-11-23T03:00:00" >&2',
    "df": "echo Avail; echo 9000000000000",
    "sacctmgr": "echo 'llm|me'; echo 'lab|me'",
}
PLACE = Place(
    kind=Kind.SLURM, account="llm", partition="h100", cpu_partition="cpu", cpus_per_node=112, time_limit="24:00:00", python=sys.executable
)  # fmt: skip
ASSUMED = Assumed()


@pytest.fixture(autouse=True)
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Stand-ins for Slurm's commands; changes what one of them does."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def answer(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    for name, script in STUBS.items():
        answer(name, script)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return answer


def examined(
    tmp_path: Path, place: Place = PLACE, recipe: str = "llama32_3b.stable", nodes: int = 8, assumed: Assumed = ASSUMED
) -> dict[str, Check]:
    plan = submission.of_recipe(
        recipes.load(recipe), place, nodes=nodes, ranks=1, out=tmp_path / "runs/stable", shards=None, init_checkpoint=None,
        assumed=assumed,
    )  # fmt: skip
    return {check.what: check for check in submission.examine(plan)}


def states(checks: dict[str, Check], state: State) -> list[str]:
    return [what for what, check in checks.items() if check.state is state]


def test_a_recipe_that_fits(tmp_path: Path) -> None:
    checks = examined(tmp_path, assumed=Assumed(throughput=15_000))
    assert states(checks, State.FAIL) == []
    assert states(checks, State.UNKNOWN) == ["data"]
    assert checks["layout"].text == "8 nodes x 8 tasks"
    assert checks["partition"].text == "h100: 32 nodes with 112 CPUs and 8 GPUs h100"
    assert checks["account"].text == "llm"
    assert checks["sbatch --test-only"].text == "Job 7 to start at 2026-11-23T03:00:00"
    assert "80 GB are there" in checks["memory"].text
    # 209.7B tokens at 15,000 a second on each of 64 GPUs; a session is 24 less the three minutes before the signal.
    assert checks["run time"].text == "60h40m at 15,000 tokens/s and rank: 3 sessions of 24:00:00"
    assert not (tmp_path / "runs").exists()


CHANGES: list[tuple[dict[str, object], int, str, str, str]] = [
    ({"partition": "h10"}, 8, "partition", "there is no 'h10'; nearest: h100", "set `partition`"),
    ({"account": "lam"}, 8, "account", "'lam' is none of yours; nearest: llm, lab", "mend `account`"),
    ({"cpus_per_node": 128}, 8, "partition", "128 CPUs per node are asked for, h100 has 112", "lower `cpus_per_node`"),
    ({"time_limit": "3-00:00:00"}, 8, "time limit", "3-00:00:00 in h100, which allows 48h00m", "lower `time_limit`"),
    ({"gpus_per_node": 7}, 1, "layout", "global_batch_size 512 does not divide", "change --nodes"),
    ({"partition": "cpu"}, 8, "partition", "8 GPUs per node are asked for, cpu has 0", "mend `gpus_per_node` or `partition`"),
    (
        {"container": Container(image="nvcr.io/nvidia/pytorch:25.09-py3")}, 8, "image",
        "nvcr.io/nvidia/pytorch:25.09-py3: enroot looks for that on Docker Hub", "write nvcr.io#nvidia/pytorch:25.09-py3",
    ),
    ({"container": Container(image="/no/such.sqsh")}, 8, "image", "/no/such.sqsh is not there", "enroot import"),
    (
        {"container": Container(image="nvcr.io#nvidia/pytorch:25.09-py3", mounts=("/no/such:/data",))}, 8, "mount",
        "/no/such is not there", "mend container.mounts",
    ),
    (
        {"restart": Restart.NEVER, "submitter": Submitter.SBATCH}, 8, "run time", "3 sessions of 24:00:00",
        "raise `time_limit` or --nodes",
    ),
    (
        {"restart": Restart.CHAIN, "submitter": Submitter.SBATCH, "copies": 2}, 8, "run time", "3 sessions of 24:00:00",
        "set `copies: 4`",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "nodes", "what", "text", "remedy"), CHANGES)
def test_what_would_fail_is_said_with_its_remedy(
    tmp_path: Path, changes: dict[str, object], nodes: int, what: str, text: str, remedy: str
) -> None:
    place = dataclasses.replace(PLACE, **changes)  # type: ignore[arg-type]
    checks = examined(tmp_path, place, nodes=nodes, assumed=Assumed(throughput=15_000))
    assert checks[what].state is State.FAIL
    assert text in checks[what].text
    assert remedy in checks[what].remedy


def test_a_model_that_is_too_large_for_its_gpus(tmp_path: Path) -> None:
    checks = examined(tmp_path, assumed=Assumed(gpu_bytes=10 * 10**9))
    assert checks["memory"].state is State.FAIL
    assert "10 GB are there" in checks["memory"].text
    assert "tensor_model_parallel_size" in checks["memory"].remedy


def test_a_place_without_gpus(tmp_path: Path) -> None:
    place = dataclasses.replace(PLACE, gpus_per_node=0, cpus_per_node=8, partition="cpu")
    checks = examined(tmp_path, place, recipe="tiny.stable", nodes=1)
    assert checks["memory"].state is State.OK
    assert "1.05 TB are there" in checks["memory"].text
    assert checks["run time"].state is State.UNKNOWN


def test_more_nodes_than_are_shown_may_be_powered_down(tmp_path: Path, slurm: Callable[[str, str], None]) -> None:
    assert examined(tmp_path, nodes=64)["partition"].text == "64 nodes are asked for, h100 shows 32"
    assert examined(tmp_path, nodes=64)["partition"].state is State.WARN
    slurm("sinfo", "echo 'h100|0|0|0|(null)|1-00:00:00'")
    assert examined(tmp_path)["partition"].state is State.UNKNOWN


def test_slurm_refuses(tmp_path: Path, slurm: Callable[[str, str], None]) -> None:
    slurm("sbatch", "echo 'sbatch: error: Invalid qos specification' >&2; exit 1")
    check = examined(tmp_path)["sbatch --test-only"]
    assert (check.state, check.text) == (State.FAIL, "error: Invalid qos specification")


def test_slurm_does_not_answer(tmp_path: Path, slurm: Callable[[str, str], None]) -> None:
    slurm("sinfo", "echo 'slurm_load_partitions: Unable to contact slurm controller' >&2; exit 1")
    checks = examined(tmp_path)
    assert states(checks, State.FAIL) == ["Slurm"]
    assert "Unable to contact slurm controller" in checks["Slurm"].text


def test_what_sbatch_would_hand_on_and_end_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVTE_FLASH_ATTN", "1")
    assert "environment" not in examined(tmp_path)
    monkeypatch.setenv("NVTE_FUSED_ATTN", "0")
    check = examined(tmp_path)["environment"]
    assert (check.state, check.remedy) == (State.FAIL, "in this shell: sbatch hands it on to the job")
    assert check.text.startswith("NVTE_FUSED_ATTN='0' in the environment: ")


def test_without_accounting_the_account_is_sbatchs_to_judge(tmp_path: Path) -> None:
    assert examined(tmp_path, dataclasses.replace(PLACE, accounting=False))["account"].state is State.UNKNOWN


@pytest.mark.parametrize(
    ("mode", "state"), [(0o600, State.OK), (0o400, State.OK), (0o640, State.FAIL), (0o604, State.FAIL)]
)
def test_an_environment_file_is_its_owners_alone(tmp_path: Path, mode: int, state: State) -> None:
    file = tmp_path / "octo.env"
    file.write_text("WANDB_API_KEY=secret\n")
    file.chmod(mode)
    check = examined(tmp_path, dataclasses.replace(PLACE, environment_file=file))["environment file"]
    assert check.state is state
    assert "secret" not in check.text.replace("what is secret", "")
    assert state is State.OK or check.remedy == f"chmod 600 {file}"


def test_an_environment_file_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    place = dataclasses.replace(PLACE, environment_file=Path("~/octo.env"))
    assert examined(tmp_path, place)["environment file"].state is State.FAIL
    (tmp_path / "octo.env").touch(0o600)
    assert examined(tmp_path, place)["environment file"].state is State.OK


def test_an_interpreter_without_the_package_is_worth_a_word(tmp_path: Path) -> None:
    check = examined(tmp_path, dataclasses.replace(PLACE, python="/no/such/python"))["python"]
    assert check.state is State.WARN


def test_too_little_disk(tmp_path: Path, slurm: Callable[[str, str], None]) -> None:
    slurm("df", "echo Avail; echo 1000000")
    check = examined(tmp_path)["disk"]
    assert check.state is State.FAIL
    assert "1 MB free" in check.text
    assert check.text == f"2.25 TB of checkpoints, 1 MB free for {tmp_path / 'runs/stable'}"


def test_checkpoints_that_stay_and_the_one_that_is_written() -> None:
    recipe = recipes.load("tiny.stable")
    few = dataclasses.replace(
        recipe, keep_checkpoints=2, keep_every_tokens=None, save_interval_tokens=recipe.tokens_per_step
    )
    assert estimate.kept_bytes(few) == 3 * estimate.checkpoint_bytes(recipe)
    once = dataclasses.replace(few, save_interval_tokens=recipe.train_tokens * 2)
    assert estimate.kept_bytes(once) == estimate.checkpoint_bytes(recipe)


def stage(directory: Path, kind: str, *, done: bool = True, outputs: dict[str, str] | None = None) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    mark = {
        "done": done,
        "kind": kind,
        "config": {},
        "inputs": {},
        "counts": {},
        "wall_seconds": 1.0,
        "outputs": outputs or {},
    }
    (directory / "stage.json").write_text(json.dumps(mark))
    return directory


def corpus(directory: Path) -> Path:
    """A corpus of one shard with 50 tokens."""
    stage(directory, "tokenize")
    (directory / "web.bin").write_bytes(bytes(100))
    (directory / "web.idx").write_bytes(b"index")
    (directory / "manifest.json").write_text(json.dumps({"tokens": 50, "shards": [{"name": "web", "bytes": 100}]}))
    return directory


def inputs(tmp_path: Path, *earlier: Job) -> dict[str, Check]:
    """What is said of shards and checkpoint of a branch of the tiny study."""
    recipe = recipes.load("tiny.decay_long")
    config = TrainingJob(recipe=recipe, shards=tmp_path / "shards", init_checkpoint=tmp_path / "stable")
    job = Job(
        name="long", module="megatron_octo.training.run", config=config, out=tmp_path / "long", logs=tmp_path / "logs"
    )
    place = dataclasses.replace(PLACE, gpus_per_node=0, cpus_per_node=8, partition="cpu")
    plan = submission.Plan(jobs=(*earlier, job), place=place, nodes=1, study=tmp_path, assumed=ASSUMED, has_data=True)
    checks = {check.what.removeprefix("long: "): check for check in submission.examine(plan)}
    return {what: check for what, check in checks.items() if what.startswith(("shards", "checkpoint"))}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """All that the branch reads."""
    for name in recipes.load("tiny.decay_long").corpora:
        corpus(tmp_path / "shards" / name)
    (stage(tmp_path / "stable", "train", outputs={"checkpoints/weights": "0"}) / "checkpoints").mkdir()
    (tmp_path / "stable/checkpoints/weights").touch()
    return tmp_path


def test_shards_and_checkpoint_that_are_whole(data: Path) -> None:
    checks = inputs(data)
    assert len(checks) == len(recipes.load("tiny.decay_long").corpora) + 1
    assert states(checks, State.OK) == list(checks)
    assert checks["checkpoint"].text == f"{data / 'stable'}: train, 1 file"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda web: (web / "web.bin").write_bytes(bytes(99)), "missing or cut: web.bin"),
        (lambda web: (web / "web.idx").unlink(), "missing or cut: web.idx"),
        (lambda web: (web / "manifest.json").unlink(), "No such file"),
        (lambda web: (web / "stage.json").unlink(), "is no stage directory"),
        (lambda web: stage(web, "tokenize", done=False), "did not finish"),
    ],
)
def test_shards_that_are_not(data: Path, damage: Callable[[Path], object], said: str) -> None:
    first = recipes.load("tiny.decay_long").corpora[0]
    damage(data / "shards" / first)
    check = inputs(data)[f"shards {first}"]
    assert check.state is State.FAIL
    assert said in check.text
    assert "tokenize" in check.remedy


def test_a_checkpoint_that_lost_a_file(data: Path) -> None:
    (data / "stable/checkpoints/weights").unlink()
    check = inputs(data)["checkpoint"]
    assert (check.state, check.text) == (State.FAIL, f"{data / 'stable'}: missing: checkpoints/weights")


def test_a_branch_may_leave_a_run_that_is_still_training(data: Path) -> None:
    stage(data / "stable", "train", done=False)
    assert inputs(data)["checkpoint"].state is State.WARN


def test_what_an_earlier_job_makes_need_not_be_there(tmp_path: Path) -> None:
    recipe = recipes.load("tiny.stable")
    config = TrainingJob(recipe=recipe, shards=tmp_path / "shards")
    out = tmp_path / "stable"
    stable = Job(
        name="stable", module="megatron_octo.training.run", config=config, out=out, logs=tmp_path / "logs/stable"
    )
    assert inputs(tmp_path, stable)["checkpoint"].text == "made by stable"


def test_only_slurm_can_be_asked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kind skypilot"):
        examined(tmp_path, dataclasses.replace(PLACE, kind=Kind.SKYPILOT))


def test_partitions() -> None:
    assert partitions.parse(SINFO) == [
        Partition(
            name="h100", nodes=32, cpus=112, memory_bytes=2000000 << 20, gpus=8, gpu_type="h100", minutes=2880, is_default=True
        ),
        Partition(name="cpu", nodes=12, cpus=128, memory_bytes=1000000 << 20, gpus=0, gpu_type="", minutes=None, is_default=False),
    ]  # fmt: skip
    (several,) = partitions.parse("a|1|64|1000|nvme:1,gpu:2,gpu:a100_80gb:4(S:0)|30:00")
    assert (several.gpus, several.gpu_type, several.minutes) == (4, "a100_80gb", 30)


@pytest.mark.parametrize(
    ("gpu_type", "gigabytes"),
    [
        ("h100", 80),
        ("nvidia_a100_80gb_pcie", 80),
        ("A100-SXM4-40GB", 40),
        ("gb200", 186),
        ("H200", 141),
        ("a100", None),
        ("", None),
    ],
)
def test_memory_by_the_name_of_the_gpu(gpu_type: str, gigabytes: int | None) -> None:
    assert gpu_bytes(gpu_type) == (gigabytes and gigabytes * 10**9)


def test_the_table() -> None:
    checks = [
        checklist.ok("git", "abc"),
        checklist.fail("disk", "full", "make room"),
        checklist.unknown("image", "in a registry"),
    ]
    assert checklist.table(checks) == (
        "ok   git    abc\nFAIL disk   full\n            -> make room\n-    image  in a registry\n1 ok, 1 fail, 1 unknown"
    )
    assert not checklist.passes(checks)
    assert checklist.as_data(checks)["passes"] is False
    assert checklist.passes([checks[0], checks[2]])
