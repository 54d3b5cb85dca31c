"""What the file of versions says, and that it says the same as what installs them."""

import tomllib
from pathlib import Path

import pytest

from megatron_octo import compatibility

ROOT = Path(__file__).parents[2]
CPU = {
    "megatron-core": "0.16.1",
    "torch": "2.13.0+cpu",
    "transformers": "5.23.0",
    "trl": "1.16.0",
    "openrlhf": "0.11.2",
}
NGC = {"megatron-core": "0.16.1", "torch": "2.10.0a0+b4e4ee81d3", "transformer-engine": "2.10.0+769ed778"}
RL = {"torch": "2.13.0", "openrlhf": "0.11.2", "ray": "2.55.0", "deepspeed": "0.19.6", "transformers": "5.15.0"}
LAUNCH = {"nemo-run": "0.11.1", "ray": "2.60.0"}


@pytest.mark.parametrize("found", [{}, CPU, CPU | {"megatron-core": "0.17.1"}, NGC, RL, LAUNCH])
def test_environments_that_are_well(found: dict[str, str]) -> None:
    assert compatibility.conflicts(found) == []


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (CPU | {"megatron-core": "0.19.2"}, "megatron-core 0.19.2: training runs on 0.16.1 and 0.17.1; pip install megatron-core==0.16.1"),
        (CPU | {"transformer-engine": "2.11.0"}, "transformer-engine 2.11.0 without its torch extension"),
        (CPU | {"transformer-engine": "2.12.0", "transformer-engine-torch": "2.12.0"}, "asks for 2.9 to below 2.12"),
        (NGC | {"transformer-engine": "2.7.0+769ed778"}, "transformer-engine 2.7.0+769ed778: megatron-core 0.16.1 asks for"),
        (RL | {"transformers": "5.23.0"}, "transformers 5.23.0: OpenRLHF 0.11.2 needs 5.15.0; the extras `cpu` and `rl` live"),
        (CPU | LAUNCH, "nemo-run 0.11.1 beside trl: it pins httpx, urllib3 and Ray"),
        (CPU | {"torchvision": "0.28.0"}, "torchvision 0.28.0 is a CUDA build beside torch 2.13.0+cpu"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(found: dict[str, str], says: str) -> None:
    [conflict] = compatibility.conflicts(found)
    assert says in conflict


def test_installed_reads_this_environment() -> None:
    assert compatibility.installed().keys() <= set(compatibility.WATCHED)


def locked(file: str) -> dict[str, str]:
    pins = (
        line.split()[0].partition("==")
        for line in (ROOT / "requirements" / file).read_text().splitlines()
        if "==" in line
    )
    return {name.lower().replace("_", "-"): version for name, _, version in pins if not name.startswith("#")}


def test_the_extras_ask_for_the_same() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert f"megatron-core=={compatibility.MEGATRON_CORE[0]}" in extras["train"]
    assert "megatron-octo[train]" in extras["cpu"]


@pytest.mark.parametrize("file", ["cpu.txt", "train.txt"])
def test_the_locks_have_that_megatron(file: str) -> None:
    assert locked(file)["megatron-core"] == compatibility.MEGATRON_CORE[0]


@pytest.mark.parametrize("file", ["openrlhf-cpu.txt", "rl.txt"])
def test_the_locks_have_the_pins_of_openrlhf(file: str) -> None:
    pins = locked(file)
    assert {package: pins[package] for package in compatibility.OPENRLHF_PINS} == compatibility.OPENRLHF_PINS
    assert pins["torch"] == "2.13.0"


@pytest.mark.parametrize("file", ["build.txt", "train.txt", "rl.txt"])
def test_every_line_of_a_lock_of_an_image_has_its_hash(file: str) -> None:
    lines = [line for line in (ROOT / "requirements" / file).read_text().splitlines() if not line.startswith("#")]
    assert lines
    assert [line for line in lines if "==" not in line or "--hash=sha256:" not in line] == []
