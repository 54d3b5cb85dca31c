"""What ranks of training get: on this machine, and through bash elsewhere. nvidia-smi is a stand-in."""

import dataclasses
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import rendered

from megatron_octo.errors import ConfigError
from megatron_octo.launch import local, training_environment
from megatron_octo.launch.jobs import Job
from megatron_octo.launch.jobscript import batch, scripts
from megatron_octo.launch.place import Kind, Place

#: Of llama31_8b: tensor-parallel, with overlap of gradients.
HOPPER = {
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",
    "NVTE_FWD_LAYERNORM_SM_MARGIN": "20",
    "NVTE_BWD_LAYERNORM_SM_MARGIN": "20",
}
BLACKWELL = HOPPER | {"CUDA_DEVICE_MAX_CONNECTIONS": "32"}
NAMES = (*HOPPER, "PYTORCH_ALLOC_CONF", "CUDA_VISIBLE_DEVICES")
#: Writes down what of the environment it got.
STAGE = """
import json, os, pathlib, sys
out = pathlib.Path(sys.argv[2])
out.mkdir(exist_ok=True)
(out / f"rank{os.environ['RANK']}.json").write_text(json.dumps(dict(os.environ)))
"""


@pytest.fixture(autouse=True)
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes an nvidia-smi that runs this script; none of the variables is set."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def answer(script: str) -> None:
        (folder / "nvidia-smi").write_text(f"#!/bin/bash\n{script}\n")
        (folder / "nvidia-smi").chmod(0o755)

    return answer


def eight(study: Path = rendered.RUNS, ranks: int = 8) -> Job:
    return rendered.stable("llama31_8b", study, ranks=ranks)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 9.0; echo 9.0", HOPPER),
        ("echo 10.0; echo 10.0", BLACKWELL),
        ("echo 12.1", BLACKWELL),
        ("exit 0", {}),
        ("echo 'No devices were found'", {}),
        ("echo 9.0; exit 9", {}),
    ],
)
def test_ranks_here(script: str, expected: dict[str, str], gpus: Callable[[str], None]) -> None:
    gpus(script)
    assert training_environment.here(eight()) == expected


def test_one_rank_here_has_nobody_to_talk_to(gpus: Callable[[str], None]) -> None:
    gpus("echo 9.0")
    assert training_environment.here(rendered.stable("llama32_1b")) == {
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"
    }


def test_without_a_gpu_nothing_is_set(gpus: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert training_environment.here(eight()) == {}


@pytest.mark.parametrize("shown", ["", "-1"])
def test_gpus_that_are_hidden_are_none(
    shown: str, gpus: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus("echo 9.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert training_environment.here(eight()) == {}


def test_other_stages_start_with_what_there_is(gpus: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    gpus("echo 9.0")
    monkeypatch.setenv("NVTE_FLASH_ATTN", "0")
    training_environment.require(rendered.tokenize())
    assert training_environment.here(rendered.tokenize()) == {}
    assert training_environment.exports(rendered.rl(), ranks=8, on_gpus=True) == []
    assert training_environment.reserved(rendered.rl()) == ()


def launched(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What two ranks of the local launcher got."""
    (root / "stage_under_test.py").write_text(STAGE)
    monkeypatch.setenv("PYTHONPATH", str(root), prepend=os.pathsep)
    job = dataclasses.replace(eight(root, ranks=2), module="stage_under_test", out=root / "out", always_starts=True)
    local.run([job], cores=2)
    return [json.loads((root / "out" / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def test_the_local_launcher_sets_it_for_every_rank(
    tmp_path: Path, gpus: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    gpus("echo 9.0")
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "8")
    for environment in launched(tmp_path, monkeypatch):
        assert environment["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
        assert environment["CUDA_DEVICE_MAX_CONNECTIONS"] == "8"
    assert "stable: for its GPUs PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True\n" in capfd.readouterr().err
    assert "PYTORCH_CUDA_ALLOC_CONF" not in os.environ


def test_the_local_launcher_sets_nothing_on_a_cpu(
    tmp_path: Path, gpus: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    gpus("exit 9")
    for environment in launched(tmp_path, monkeypatch):
        assert not environment.keys() & HOPPER.keys()
    assert "for its GPUs" not in capfd.readouterr().err


def test_what_would_end_every_rank_is_refused_before_one_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVTE_UNFUSED_ATTN", "0")
    with pytest.raises(ConfigError, match="NVTE_UNFUSED_ATTN='0' in the environment"):
        launched(tmp_path, monkeypatch)
    assert not (tmp_path / "out").exists()


def through_bash(lines: list[str], environment: Mapping[str, str]) -> dict[str, str]:
    """What of it a process gets that bash starts after these lines."""
    done = subprocess.run(
        ["bash", "-euc", "\n".join([*lines, "env"])],
        env={"PATH": os.environ["PATH"], **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    return {name: value for name, value in found.items() if name in HOPPER}


@pytest.mark.parametrize(
    ("script", "user", "expected"),
    [
        ("echo 9.0; echo 9.0", {}, HOPPER),
        ("echo 10.0; echo 10.0", {}, BLACKWELL),
        ("echo 8.6", {}, HOPPER),
        ("exit 9", {}, HOPPER),
        ("echo 10.0", {"CUDA_DEVICE_MAX_CONNECTIONS": "8"}, HOPPER | {"CUDA_DEVICE_MAX_CONNECTIONS": "8"}),
        (
            "echo 9.0",
            {"PYTORCH_ALLOC_CONF": "backend:native"},
            {name: HOPPER[name] for name in list(HOPPER)[1:]},
        ),
        ("echo 9.0", {"NVTE_FWD_LAYERNORM_SM_MARGIN": "0"}, HOPPER | {"NVTE_FWD_LAYERNORM_SM_MARGIN": "0"}),
    ],
)
def test_the_same_through_bash(
    script: str, user: dict[str, str], expected: dict[str, str], gpus: Callable[[str], None]
) -> None:
    gpus(script)
    assert through_bash(training_environment.exports(eight(), ranks=8, on_gpus=True), user) == expected


def test_the_rank_script_of_a_tensor_parallel_run() -> None:
    text = scripts.rank_script(*rendered.batches()["llama31_8b-8-plain"])
    assert (
        """\
# docs/training.md says what these are for; what is set already stays.
case "$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null)" in
  [1-9][0-9].*) # compute capability 10 and above: Blackwell and newer
    export CUDA_DEVICE_MAX_CONNECTIONS="${CUDA_DEVICE_MAX_CONNECTIONS:-32}"
    ;;
esac
[ -n "${PYTORCH_ALLOC_CONF:-}" ] || export PYTORCH_CUDA_ALLOC_CONF="${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}"
export CUDA_DEVICE_MAX_CONNECTIONS="${CUDA_DEVICE_MAX_CONNECTIONS:-1}"
export NVTE_FWD_LAYERNORM_SM_MARGIN="${NVTE_FWD_LAYERNORM_SM_MARGIN:-20}"
export NVTE_BWD_LAYERNORM_SM_MARGIN="${NVTE_BWD_LAYERNORM_SM_MARGIN:-20}"
trap """
        in text
    )


def test_without_tensor_parallelism_nobody_is_asked_for_the_gpus() -> None:
    text = scripts.rank_script(*rendered.batches()["llama32_3b-8-plain"])
    assert "nvidia-smi" not in text
    assert 'export CUDA_DEVICE_MAX_CONNECTIONS="${CUDA_DEVICE_MAX_CONNECTIONS:-32}"\n' in text


def test_ranks_of_a_place_without_gpus_get_none() -> None:
    place = Place(kind=Kind.SLURM, gpus_per_node=0, cpus_per_node=8, time_limit="01:00:00")
    one = batch.prepare([eight()], place, 1, rendered.RUNS, rendered.RUNS)[0]
    text = scripts.rank_script(one, place)
    assert [name for name in HOPPER if name in text] == []
