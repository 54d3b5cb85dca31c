"""What Ray is asked and how its answer is read, with a stand-in for Ray; the real one: tests/openrlhf."""

import os
from pathlib import Path

import pytest
from rl_recipes import on_openrlhf

from megatron_octo.errors import ResourceError
from megatron_octo.rl import ray_cluster
from megatron_octo.rl.placement import Placement

#: As noisy as Ray; three nodes, of which one has left.
RAY = """
def init(**_):
    print("Connected to Ray cluster.")
def cluster_resources():
    return {resources}
def nodes():
    return [{{"Alive": True}}, {{"Alive": False}}, {{"Alive": True}}]
"""


def stand_in(directory: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (directory / "ray.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(directory))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize(("resources", "gpus"), [('{"CPU": 8.0, "GPU": 6.0}', 6.0), ('{"CPU": 8.0}', 0.0)])
def test_gpus_and_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resources: str, gpus: float) -> None:
    stand_in(tmp_path, monkeypatch, RAY.format(resources=resources))
    assert (ray_cluster.gpus(), ray_cluster.nodes(os.environ)) == (gpus, 2)


def test_a_recipe_gets_its_gpus_or_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, RAY.format(resources='{"GPU": 8.0}'))
    assert ray_cluster.require_gpus(on_openrlhf()) == "8 needed, 8 there (this machine)"
    with pytest.raises(ResourceError, match=r"test needs 16 GPUs and Ray \(this machine\) has 8; set placement.nodes"):
        ray_cluster.require_gpus(on_openrlhf(placement=Placement(nodes=2)))


def test_what_ray_says_instead_of_an_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "raise ConnectionError('nobody at 10.0.0.1:6379')")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(
        ResourceError, match=r"(?s)Ray \(RAY_ADDRESS=10.0.0.1:6379\) cannot be asked.*nobody at 10.0.0.1"
    ):
        ray_cluster.gpus()


def test_no_answer_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "import time; time.sleep(60)")
    monkeypatch.setattr(ray_cluster, "ANSWER_SECONDS", 0.5)
    with pytest.raises(ResourceError, match="no answer from Ray \\(this machine\\)"):
        ray_cluster.gpus()
