import dataclasses
from pathlib import Path

import pytest

from megatron_octo import config
from megatron_octo.errors import ConfigError
from megatron_octo.launch import place
from megatron_octo.launch.place import SSH, Container, Kind, Place, Restart, Submitter, find, load, minutes

EXAMPLES = Path(__file__).parents[3] / "examples" / "places"
SMALLEST = "kind: slurm\ncpus_per_node: 64\ntime_limit: 04:00:00\n"


def written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "lab.yaml").write_text(text)
    return tmp_path / "lab.yaml"


def test_the_smallest_place(tmp_path: Path) -> None:
    assert load(written(tmp_path, SMALLEST)) == Place(kind=Kind.SLURM, cpus_per_node=64, time_limit="04:00:00")


@pytest.mark.parametrize("name", ["skypilot", "slurm_containers", "slurm", "ssh"])
def test_the_examples_load_and_survive_a_round_trip(name: str) -> None:
    found = load(EXAMPLES / f"{name}.yaml")
    assert config.from_dict(Place, config.to_dict(found)) == found


def test_every_example_is_known() -> None:
    assert sorted(file.stem for file in EXAMPLES.glob("*")) == ["skypilot", "slurm", "slurm_containers", "ssh"]


def test_what_the_examples_say() -> None:
    containers, plain, ssh = (load(EXAMPLES / f"{name}.yaml") for name in ("slurm_containers", "slurm", "ssh"))
    assert containers.container_of("megatron_octo.training.run") == Container(
        image="nvcr.io#nvidia/pytorch:25.12-py3",
        mounts=("/lustre/data:/lustre/data:ro", "/lustre/models:/lustre/models:ro"),
        env=("HF_HOME",),
    )
    rl = containers.container_of("megatron_octo.rl.openrlhf_run")
    assert rl is not None
    assert rl.image == "/lustre/images/openrlhf-0.11.sqsh"
    assert containers.sbatch == {"exclusive": True, "mem": 0}
    assert (plain.restart, plain.submitter, plain.accounting) == (Restart.CHAIN, Submitter.SBATCH, False)
    assert plain.python_of("megatron_octo.rl.openrlhf_run") == "/shared/venvs/openrlhf/bin/python"
    assert plain.python_of("megatron_octo.training.run") == "/shared/venvs/octo/bin/python"
    assert ssh.ssh == SSH(host="login.cluster.example.org", user="ada", identity=Path("~/.ssh/id_ed25519"))


@pytest.mark.parametrize(
    ("time_limit", "expected"),
    [
        ("30", 30),
        ("30:00", 30),
        ("30:01", 31),
        ("04:00:00", 240),
        ("1-0", 1440),
        ("1-02:30", 1590),
        ("2-00:00:01", 2881),
    ],
)
def test_time_limits_in_minutes(time_limit: str, expected: int) -> None:
    assert minutes(time_limit) == expected


@pytest.mark.parametrize("time_limit", ["", "a", "1:2:3:4", "x-1", "-5", "4h"])
def test_no_time_limits(time_limit: str) -> None:
    with pytest.raises(ConfigError, match="write MINUTES, HH:MM:SS or D-HH:MM:SS"):
        minutes(time_limit)


@pytest.mark.parametrize("word", ["12:00:00", "240", "'12:00:00'", "1-12:00:00", "04:00:00", "190:20:30"])
def test_yaml_does_not_count_times_to_the_base_of_60(word: str, tmp_path: Path) -> None:
    file = written(tmp_path, f"kind: slurm\ncpus_per_node: 64\ntime_limit: {word}\n")
    assert load(file).time_limit == word.strip("'")


def test_numbers_stay_numbers(tmp_path: Path) -> None:
    found = load(
        written(tmp_path, f"{SMALLEST}price_per_gpu_hour: 2.5\nretries: 0\nsbatch: {{switches: 1, mem: 10G}}\n")
    )
    assert (found.price_per_gpu_hour, found.retries, found.sbatch) == (2.5, 0, {"switches": 1, "mem": "10G"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{SMALLEST}partion: x\n", "lab.yaml: unknown field 'partion': Place has no 'partion'; nearest: partition"),
        ("kind: slurm\n", "lab.yaml: .*missing 2 required"),
        ("kind: slrm\ncpus_per_node: 1\ntime_limit: 60\n", "'slrm' is not allowed; nearest: slurm"),
        ("- a\n", "lab.yaml: .*Place expected"),
        ("a: [\n", "lab.yaml: is not YAML"),
        (f"{SMALLEST}gpus_per_node: -1\n", "gpus_per_node is -1"),
        (f"{SMALLEST}copies: 0\n", "copies is 0"),
        (f"{SMALLEST}save_seconds: 14400\n", "time_limit 04:00:00 leaves no time to work"),
        (f"{SMALLEST}restart: chain\n", "NeMo-Run submits every job with --requeue, .* set submitter: sbatch"),
        (f"{SMALLEST}sbatch: {{ntasks-per-node: 4}}\n", "sbatch.ntasks-per-node is decided by the stage; leave it out"),
        (f"{SMALLEST}sbatch: {{job_name: x}}\n", "sbatch.job_name is decided by the launcher"),
        (f"{SMALLEST}sbatch: {{exclusive: false}}\n", "sbatch.exclusive: false says nothing"),
    ],
)
def test_what_a_place_may_not_say(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        load(written(tmp_path, text))


def test_a_place_is_found_by_its_name_or_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, ours = tmp_path / "places", tmp_path / "home"
    mine.mkdir(), ours.mkdir()
    monkeypatch.setattr(place, "USER_PLACES", ours)
    written(mine, SMALLEST)
    (ours / "lab.yaml").write_text(f"{SMALLEST}account: home\n")
    (ours / "big.yaml").write_text(f"{SMALLEST}account: big\n")
    assert find("local", directory=tmp_path) is None
    assert find("lab", directory=tmp_path) == load(mine / "lab.yaml")
    found = find("big", directory=tmp_path)
    assert found is not None
    assert found.account == "big"
    assert find(str(ours / "lab.yaml"), directory=tmp_path) == dataclasses.replace(
        load(mine / "lab.yaml"), account="home"
    )
    with pytest.raises(ConfigError, match=r"unknown place 'bgi'; nearest: big; a place is a file bgi.yaml in "):
        find("bgi", directory=tmp_path)
    with pytest.raises(ConfigError, match=r"cannot read the place .*: No such file"):
        find("no.yaml", directory=tmp_path)
