"""The stage `cpu` of the Dockerfile, built by a real engine from a Debian that stands for the image of Python, and used.

`make test-containers`; six minutes the first time, later the Debian is there. docs/containers.md says what this does not show.
"""

import json
import re

import engine
import pytest
import yaml

ROOT = engine.ROOT
COMMIT = "0123456789abcdef"
STAGES = re.findall(r"^FROM \S+ AS (\w+)", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)


@pytest.fixture(scope="session")
def cpu() -> str:
    """The image `cpu`."""
    if reason := engine.missing():
        pytest.skip(reason)
    engine.KEPT.mkdir(parents=True, exist_ok=True)
    engine.install()
    engine.stand_in()
    return engine.build("cpu", PYTHON_IMAGE=engine.STAND_IN, COMMIT=COMMIT, VERSION="0.1.dev7")


def test_compose_has_every_image() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert {service["build"]["target"] for service in services.values()} == set(STAGES) - {"base", "wheel"}


def test_the_package_runs_as_a_user_without_rights(cpu: str) -> None:
    assert engine.run(cpu, "id", "--user").strip() == "10001"
    assert engine.run(cpu, "megatron-octo", "--version").strip() == "0.1.dev7"
    assert "ok   training" in engine.run(cpu, "megatron-octo", "doctor")


def test_what_the_image_says_about_itself(cpu: str) -> None:
    config = json.loads(engine.ask(*engine.BUILDAH, "inspect", cpu))["Docker"]["config"]
    assert config["User"] == "10001"
    assert config["WorkingDir"] == "/octo"
    assert config["Healthcheck"]["Test"] == ["CMD", "megatron-octo", "doctor"]
    assert config["Labels"]["org.opencontainers.image.revision"] == COMMIT


def test_nothing_is_left_in_it(cpu: str) -> None:
    """Neither the checkout and the wheel, nor the locks, nor apt's lists, nor this machine's pip settings."""
    places = "/src /dist /tmp /var/lib/apt/lists /etc/pip.conf"
    assert engine.run(cpu, "bash", "-c", f"find {places} -type f -size +0 2>/dev/null || true") == ""


def test_the_world_of_the_demo_is_made(cpu: str) -> None:
    small = ["rl_problems=20", "test_problems=20"]
    said = engine.run(
        cpu, "bash", "-c", f"megatron-octo curate tiny.world {' '.join(small)} --out runs/world && ls runs/world"
    )
    assert {"stage.json", "rl.jsonl", "test.jsonl"} <= set(said.split())


def test_a_mounted_checkout_trains_there(cpu: str) -> None:
    """Two ranks of Megatron-Core, with a kill and a resumption, from the tests of a checkout."""
    said = engine.run(
        cpu,
        *("python", "-m", "pytest", "-p", "no:cacheprovider", "/src/tests/integration/test_training.py"),
        mounts=[f"{ROOT}:/src:ro"],
        environment={"PYTHONPATH": "/src", "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/home/octo"},
    )
    assert re.search(r"\d+ passed", said)
    assert "failed" not in said
