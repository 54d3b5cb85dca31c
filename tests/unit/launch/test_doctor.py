from pathlib import Path

import pytest

from megatron_octo import recipes
from megatron_octo.errors import ResourceError
from megatron_octo.launch import doctor, study


def test_every_stage_of_a_study_is_examined() -> None:
    modules = {job.module for job in study.jobs(recipes.load("tiny.study"), Path("out"), command="")}
    assert modules == doctor.STAGES.keys()


def test_what_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: "1.0")
    text, healthy = doctor.examine(tmp_path)
    assert healthy
    assert "rl                           torch 1.0, transformers 1.0, trl 1.0" in text
    doctor.require("megatron_octo.rl.run")


def test_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: None if package == "trl" else "1.0")
    text, healthy = doctor.examine(tmp_path)
    assert not healthy
    assert [line for line in text.splitlines() if "pip install" in line] == [
        "LACK rl                           missing trl; pip install 'megatron-octo[cpu]'"
    ]
    with pytest.raises(ResourceError, match=r"megatron_octo.rl.run needs trl, not installed; pip install"):
        doctor.require("megatron_octo.rl.run")
    doctor.require("megatron_octo.plotting.run")
    doctor.require("a_module.of_the_user")


def test_the_real_versions(tmp_path: Path) -> None:
    assert "python 3." in doctor.examine(tmp_path)[0]
    assert doctor._version("no-such-package-of-mine") is None
