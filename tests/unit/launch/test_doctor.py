from pathlib import Path

import pytest

from megatron_octo import packages, recipes
from megatron_octo.errors import ConfigError, ResourceError
from megatron_octo.launch.preflight import doctor
from megatron_octo.launch.study import graph


def test_every_stage_of_a_study_is_examined() -> None:
    modules = {job.module for job in graph.jobs(recipes.load("tiny.study"), Path("out"), command="")}
    assert modules == packages.STAGES.keys()


def test_what_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packages, "version", lambda package: "1.0")
    text, healthy = doctor.examine(tmp_path)
    assert healthy
    assert "rl                           torch 1.0, transformers 1.0, trl 1.0" in text
    packages.require("megatron_octo.rl.run")


def test_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packages, "version", lambda package: None if package == "trl" else "1.0")
    text, healthy = doctor.examine(tmp_path)
    assert not healthy
    assert [line for line in text.splitlines() if "pip install" in line] == [
        "LACK rl                           missing trl; pip install 'megatron-octo[cpu]'"
    ]
    with pytest.raises(ResourceError, match=r"megatron_octo.rl.run needs trl, not installed in .*; pip install"):
        packages.require("megatron_octo.rl.run")
    packages.require("megatron_octo.plotting.run")
    packages.require("a_module.of_the_user")


def test_the_real_versions(tmp_path: Path) -> None:
    assert "python 3." in doctor.examine(tmp_path)[0]
    assert packages.version("no-such-package-of-mine") is None


@pytest.mark.parametrize(
    ("listing", "transformer_engine", "lines"),
    [
        ("", "2.11", ["-    gpu                          none: training runs on the CPU, in fp32 or bf16"]),
        (
            "NVIDIA H100 80GB HBM3, 9.0, 81559, 580.95.05\n" * 8,
            "2.11.0",
            [
                "ok   gpu                          8 x NVIDIA H100 80GB HBM3, 80 GiB, compute capability 9.0, driver 580.95.05, NCCL 2.28.9",
                "ok   precision fp8                transformer-engine 2.11.0",
            ],
        ),
        (
            "NVIDIA H100 80GB HBM3, 9.0, 81559, 580.95.05\n",
            None,
            [
                "ok   gpu                          1 x NVIDIA H100 80GB HBM3, 80 GiB, compute capability 9.0, driver 580.95.05, NCCL 2.28.9",
                "-    precision fp8                missing transformer-engine, which the GPU image has; fp32 and bf16 train "
                "without it",
            ],
        ),
        (
            "NVIDIA A100-SXM4-40GB, 8.0, 40960, 570.86.10\n",
            "2.11.0",
            [
                "ok   gpu                          1 x NVIDIA A100-SXM4-40GB, 40 GiB, compute capability 8.0, driver 570.86.10, NCCL 2.28.9",
                "-    precision fp8                these GPUs cannot: it takes compute capability 8.9",
            ],
        ),
    ],
)
def test_gpus(listing: str, transformer_engine: str | None, lines: list[str]) -> None:
    assert doctor.describe_gpus(listing, transformer_engine=transformer_engine, nccl="2.28.9") == lines


@pytest.mark.parametrize(
    ("per_rank_gb", "free_tb", "fits", "says"),
    [
        (80, 10, True, "ok   its memory"),
        (40, 10, False, "LACK its memory"),
        (80, 1, False, "LACK its checkpoints"),
    ],
)
def test_whether_a_machine_holds_a_recipe(per_rank_gb: int, free_tb: int, fits: bool, says: str) -> None:
    recipe = recipes.load("llama31_8b.stable")
    text, answer = doctor.describe_fit(
        recipe, ranks=8, per_rank_bytes=per_rank_gb * 10**9, on_gpu=True, free_bytes=free_tb * 10**12
    )
    assert answer is fits
    assert says in text
    assert "for 50 of 112 GB" in text  # a checkpoint every 1,000 of 50,000 steps, all kept


def test_stages_that_must_run_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the health checks of the images ask."""
    monkeypatch.setattr(packages, "version", lambda package: None if package in ("trl", "ray") else "1.0")
    text, healthy = doctor.examine(tmp_path, stages=["training", "conversion"])
    assert healthy
    assert "-    rl                           missing trl; pip install 'megatron-octo[cpu]'" in text
    text, healthy = doctor.examine(tmp_path, stages=["rl.openrlhf_run"])
    assert not healthy
    assert (
        "LACK rl.openrlhf_run              missing ray; docs/rl.md#openrlhf makes its environment, with the extra `rl`"
        in text
    )
    with pytest.raises(ConfigError, match="no stage is called trainin; nearest: training"):
        doctor.examine(tmp_path, stages=["trainin"])


def test_packages_that_do_not_go_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = {"megatron-core": "0.16.1", "transformer-engine": "2.11.0"}
    monkeypatch.setattr(doctor.compatibility, "installed", lambda: found)
    text, healthy = doctor.examine(tmp_path)
    assert not healthy
    assert "LACK environment                  transformer-engine 2.11.0 without its torch extension" in text
