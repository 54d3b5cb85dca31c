"""The checks of a curation, seen from the launcher: who is asked, and what about."""

import dataclasses
import sys
from pathlib import Path

import pytest

from megatron_octo import artifacts, recipes
from megatron_octo.curation.config import Curation
from megatron_octo.launch import curation
from megatron_octo.launch.jobs import Job
from megatron_octo.launch.place import Container, Kind, Place
from megatron_octo.launch.preflight import checklist
from megatron_octo.launch.preflight import curation as preflight
from megatron_octo.launch.preflight.checklist import Check, State
from megatron_octo.launch.preflight.curation import examine

PLACE = Place(kind=Kind.SLURM, partition="cpu", cpus_per_node=1, time_limit="1:00:00", python=sys.executable)


def tiny() -> Curation:
    found = recipes.load("tiny.curation")
    assert isinstance(found, Curation)
    return found


def checks(out: Path, place: Place | None, made: Curation | None = None) -> dict[str, Check]:
    made = made or tiny()
    return {check.what: check for check in examine(made, curation.jobs(made, out), out, place)}


def finish(job: Job) -> None:
    with artifacts.stage(job.out, kind="any", config=job.config):
        pass


@pytest.mark.parametrize(
    "place", [None, PLACE, dataclasses.replace(PLACE, python="gone", container=Container(image="i"))]
)
def test_a_process_looks(tmp_path: Path, place: Place | None) -> None:
    found = checks(tmp_path / "out", place)
    assert {check.state for check in found.values()} == {State.OK}
    assert found["packages"].text == "those of 10 steps"
    assert not (tmp_path / "out").exists()


def test_a_finished_step_is_asked_for_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs = {job.name: job for job in curation.jobs(tiny(), out)}
    refined = jobs.pop("refined")
    for job in jobs.values():
        finish(job)
    of_refined = {"packages", "refinement model", "refinement language", "disk"}
    assert set(checks(out, None)) == of_refined
    finish(refined)
    assert checks(out, None) == {}
    # With --force it is made anew.
    other = dataclasses.replace(tiny(), refinement=dataclasses.replace(refined.config, max_characters=5_000))
    assert set(checks(out, None, other)) == of_refined


def test_a_login_node_without_this_package_can_tell_nothing(tmp_path: Path) -> None:
    for python in ("no-such-python", "false", "true", "echo"):
        (check,) = checks(tmp_path / "out", dataclasses.replace(PLACE, python=python)).values()
        assert (check.what, check.state) == ("preflight", State.UNKNOWN)
        assert checklist.passes([check])


def test_a_login_node_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = tmp_path / "python"
    silent.write_text("#!/bin/sh\nexec sleep 60\n")
    silent.chmod(0o755)
    monkeypatch.setattr(preflight, "ANSWER_SECONDS", 1.0)
    (check,) = checks(tmp_path / "out", dataclasses.replace(PLACE, python=str(silent))).values()
    assert (check.state, check.text) == (State.UNKNOWN, "no answer within 1 s")


def test_what_fails_is_in_one_table(tmp_path: Path) -> None:
    reading = dataclasses.replace(tiny().reading, inputs=(tmp_path / "nowhere",))
    annotation = dataclasses.replace(tiny().annotation, prompt_file=tmp_path / "gone.txt")
    made = dataclasses.replace(tiny(), web=None, reading=reading, annotation=annotation)
    found = checks(tmp_path / "out", None, made)
    assert {name for name, check in found.items() if check.state is State.FAIL} == {"inputs", "annotation prompt"}
    assert "2 fail" in checklist.table([*found.values()])
