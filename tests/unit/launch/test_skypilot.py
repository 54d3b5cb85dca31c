"""Pipelines for SkyPilot: printed, never submitted."""

import dataclasses
import subprocess
from pathlib import Path

import pytest
import rendered
import yaml

from megatron_octo.errors import ConfigError
from megatron_octo.launch import cluster
from megatron_octo.launch.jobs import Job
from megatron_octo.launch.place import Container, Kind, Place

PLACE = Place(
    kind=Kind.SKYPILOT,
    cpus_per_node=96,
    time_limit="24:00:00",
    accelerator="H100",
    resources={"infra": "k8s"},
    container=Container(image="registry.example/octo:train"),
)


def printed(jobs: list[Job], place: Place, study: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    cluster.run(jobs, place, 2 if len(jobs) == 1 else None, study, "megatron-octo train", dry=True)
    return list(yaml.safe_load_all(capsys.readouterr().out))


def test_training_over_two_nodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = rendered.stable("llama32_3b", tmp_path)
    title, task = printed([job], PLACE, tmp_path, capsys)
    assert title["execution"] == "serial"
    assert task["num_nodes"] == 2
    assert task["resources"] == {
        "cpus": "96+", "infra": "k8s", "accelerators": "H100:8", "image_id": "docker:registry.example/octo:train",
    }  # fmt: skip
    assert "--nnodes $SKYPILOT_NUM_NODES" in str(task["run"])
    assert 'export CUDA_DEVICE_MAX_CONNECTIONS="${CUDA_DEVICE_MAX_CONNECTIONS:-32}"\n' in str(task["run"])
    checked = subprocess.run(["bash", "-n"], input=str(task["run"]), capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert job.config_file.is_file()


def test_a_stage_of_one_process_asks_for_no_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [rendered.tokenize(tmp_path, tasks=1), rendered.stable("llama32_3b", tmp_path)]
    _, tokenize, _ = printed(jobs, PLACE, tmp_path, capsys)
    assert tokenize["resources"] == {"cpus": "96+", "infra": "k8s", "image_id": "docker:registry.example/octo:train"}
    assert "torch.distributed" not in str(tokenize["run"])


@pytest.mark.parametrize(
    ("job", "place", "message"),
    [
        (rendered.tokenize(), PLACE, "array of 16 tasks"),
        (rendered.rl(), PLACE, "a Ray cluster of its own"),
        (rendered.stable("llama32_3b"), dataclasses.replace(PLACE, accelerator=None), "set accelerator: H100"),
    ],
)
def test_what_skypilot_cannot_take(tmp_path: Path, job: Job, place: Place, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cluster.run([job], place, None, tmp_path, "megatron-octo train", dry=True)


def test_nothing_is_submitted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="experimental: --dry-run"):
        cluster.run([rendered.stable("llama32_3b")], PLACE, None, tmp_path, "megatron-octo train", dry=False)
