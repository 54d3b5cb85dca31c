"""The batch scripts as text: golden files, and what may not stand in them."""

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import rendered
from rendered import CONTAINERS, PLAIN, RUNS

from megatron_octo import config
from megatron_octo.errors import ConfigError
from megatron_octo.launch.jobscript import batch, scripts
from megatron_octo.launch.place import Container, Place, Restart, Submitter

BATCHES = rendered.batches()


@pytest.mark.parametrize("name", BATCHES)
def test_the_golden_batch_scripts(name: str) -> None:
    """After a change that is meant, `python tests/unit/launch/rendered.py` writes them anew."""
    assert rendered.text(*BATCHES[name]) == (rendered.GOLDEN / f"{name}.sbatch").read_text()


def test_no_golden_file_is_left_over() -> None:
    assert {file.stem for file in rendered.GOLDEN.glob("*.sbatch")} == set(BATCHES)


@pytest.mark.parametrize("name", BATCHES)
def test_bash_can_read_all_three_files(name: str, tmp_path: Path) -> None:
    one, place = BATCHES[name]
    texts = {
        "job.sbatch": rendered.text(one, place),
        "setup.sh": scripts.setup_script(one, place),
        "rank.sh": scripts.rank_script(one, place),
    }
    for file, text in texts.items():
        (tmp_path / file).write_text(text)
        checked = subprocess.run(["bash", "-n", tmp_path / file], capture_output=True, text=True)
        assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("name", ["rl-containers", "llama31_8b-8-plain"])
def test_shellcheck_finds_nothing_in_ours(name: str, tmp_path: Path) -> None:
    one, place = BATCHES[name]
    (tmp_path / "setup.sh").write_text(scripts.setup_script(one, place))
    (tmp_path / "rank.sh").write_text(scripts.rank_script(one, place))
    found = subprocess.run(
        ["shellcheck", "--shell=bash", tmp_path / "setup.sh", tmp_path / "rank.sh"], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout


def test_ranks_are_slurms_tasks() -> None:
    one, place = BATCHES["llama32_3b-8-plain"]
    text = scripts.rank_script(one, place)
    assert 'export RANK="$SLURM_PROCID" LOCAL_RANK="$SLURM_LOCALID" WORLD_SIZE="$SLURM_NTASKS"' in text
    assert (
        'python -m megatron_octo.training.run "${MEGATRON_OCTO_SESSION%/*}/config.json" /lustre/runs/llama32_3b/stable\n'
        in text
    )


def test_rl_on_openrlhf_gets_a_ray_cluster() -> None:
    one, place = BATCHES["rl-plain"]
    assert (
        'python -m megatron_octo.rl.ray_stage --logs "$MEGATRON_OCTO_SESSION" -- python -m megatron_octo.rl.openrlhf_run "'
    ) in scripts.rank_script(one, place)
    assert '--head "$MEGATRON_OCTO_HEAD" --logs' in scripts.rank_script(*BATCHES["rl-containers"])


def test_each_stage_has_the_interpreter_and_the_image_of_its_module() -> None:
    module = "megatron_octo.rl.openrlhf_run"
    place = dataclasses.replace(
        CONTAINERS, pythons={module: "/venvs/openrlhf/bin/python"}, containers={module: Container(image="rl.sqsh")}
    )
    one = batch.prepare([rendered.rl()], place, None, RUNS, RUNS)[0]
    assert "/venvs/openrlhf/bin/python -m megatron_octo.rl.ray_stage" in scripts.rank_script(one, place)
    assert "--container-image rl.sqsh --container-mounts /lustre/runs:/lustre/runs,/" in rendered.text(one, place)


def test_what_the_place_mounts_already_is_not_mounted_again() -> None:
    one, _ = BATCHES["llama32_3b-1-containers"]
    container = Container(image="x", mounts=("/lustre:/lustre", "/scratch:/tmp"))
    assert scripts.container_mounts(one, container) == ["/lustre:/lustre", "/scratch:/tmp"]
    elsewhere = Container(image="x", mounts=("/lustre:/mnt",))
    assert scripts.container_mounts(one, elsewhere) == ["/lustre:/mnt", "/lustre/runs:/lustre/runs"]


def test_the_tilde_of_the_environment_file_is_the_home_on_the_nodes() -> None:
    one, place = BATCHES["llama32_3b-1-plain"]
    settings = dataclasses.replace(place, environment_file=Path("~/my keys.env"))
    assert "\nocto_environment_file=\"$HOME\"/'my keys.env'\n" in scripts.setup_script(one, settings)


def test_the_end_of_saving_may_take_as_long_as_the_place_says() -> None:
    assert scripts.srun_options(PLAIN)[0] == "--wait=120"
    assert scripts.srun_options(dataclasses.replace(PLAIN, save_seconds=20))[0] == "--wait=60"


def test_where_requeueing_is_forbidden_the_script_says_so() -> None:
    place = dataclasses.replace(PLAIN, restart=Restart.CHAIN, submitter=Submitter.SBATCH)
    one = batch.prepare([rendered.stable("llama32_3b")], place, 1, RUNS, RUNS)[0]
    assert "#SBATCH --no-requeue\n" in rendered.text(one, place)
    assert "#SBATCH --requeue\n" not in rendered.text(one, place)


@pytest.mark.parametrize(
    ("place", "study", "said"),
    [
        (PLAIN, Path("/lustre/my runs"), "the path '/lustre/my runs/llama32_3b/logs/stable' cannot stand"),
        (PLAIN, Path("/lustre/nemo_run"), "has /nemo_run in it"),
        (dataclasses.replace(PLAIN, srun=("--comment=a;b",)), RUNS, "srun '--comment=a;b' cannot stand"),
        (dataclasses.replace(PLAIN, container=Container(image="$(x)")), RUNS, r"container.image '\$\(x\)'"),
        (
            dataclasses.replace(PLAIN, container=Container(image="x", mounts=("/a b:/c",))),
            RUNS,
            "container.mounts '/a b:/c'",
        ),
    ],
)
def test_what_nemo_run_would_write_unquoted_is_refused(place: Place, study: Path, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        batch.prepare([rendered.stable("llama32_3b", study)], place, 1, study, study)


def test_the_files_of_an_array(tmp_path: Path) -> None:
    job = rendered.tokenize(tmp_path, tasks=3)
    one = batch.prepare([job], PLAIN, None, tmp_path, tmp_path)[0]
    scripts.write(one, PLAIN)
    for name in ("progress", "verdict", "cancelled"):
        (job.logs / "task00001" / name).touch()
    scripts.write(one, PLAIN)
    assert len(list((job.logs / "task00001").iterdir())) == 4
    scripts.forget(one)
    tasks = [json.loads((job.logs / f"task0000{task}" / "config.json").read_text())["task"] for task in range(3)]
    assert tasks == [0, 1, 2]
    assert sorted(path.name for path in job.logs.iterdir()) == [
        "code", "config.json", "job.sbatch", "rank.sh", "setup.sh", "task00000", "task00001", "task00002"
    ]  # fmt: skip
    assert [path.name for path in (job.logs / "task00001").iterdir()] == ["config.json"]
    assert (job.logs / "config.json").read_text() == config.dumps(job.config)


def test_no_secret_is_written(tmp_path: Path) -> None:
    """The environment file is named, never read here."""
    (tmp_path / "octo.env").write_text("TOKEN=hunter2\n")
    place = dataclasses.replace(PLAIN, environment_file=tmp_path / "octo.env")
    job = rendered.tokenize(tmp_path)
    scripts.write(batch.prepare([job], place, None, tmp_path, tmp_path)[0], place)
    written = "".join(file.read_text() for file in job.logs.rglob("*") if file.is_file())
    assert str(tmp_path / "octo.env") in written
    assert "hunter2" not in written
