"""Where runs come from: what is written beside them, what is never, and which stage fed which."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from megatron_octo import artifacts, jsonl
from megatron_octo.errors import ArtifactError
from megatron_octo.launch import provenance, source_state
from megatron_octo.launch.jobs import Job
from megatron_octo.launch.place import Container, Kind, Place
from megatron_octo.launch.status import runs
from megatron_octo.launch.status.runs import Feed

IMAGE = "nvcr.io#nvidia/pytorch@sha256:" + "a1" * 32
PLACE = Place(
    kind=Kind.SLURM, cpus_per_node=2, time_limit="60", python="/shared/bin/python", container=Container(image=IMAGE)
)
TOKEN = "hf_" + "abcdefghijklmnopqrstuvwxyz"


def git(directory: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", str(directory), *who, *arguments], check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's work tree with one committed file, which is the working directory."""
    directory = tmp_path / "lab"
    directory.mkdir()
    git(directory, "init", "--quiet")
    (directory / "runs.py").write_text("rate = 1\n")
    (directory / "cluster.env").write_text("X=1\n")
    git(directory, "add", ".")
    git(directory, "commit", "--quiet", "--message", "start")
    monkeypatch.chdir(directory)
    return directory


def job(study: Path, name: str, *needs: str) -> Job:
    return Job(
        name=name, module="megatron_octo.training.run", config=None, out=study / name, logs=study / "logs" / name, needs=needs
    )  # fmt: skip


def read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_a_run_says_what_it_is_and_what_feeds_it(lab: Path) -> None:
    study = lab / "study"
    provenance.record([job(study, "stable"), job(study, "long", "stable")], PLACE, command="megatron-octo study tiny")
    said = read(study / "logs" / "long" / "run.json")
    assert said["stage"] == "long"
    assert said["command"] == "megatron-octo study tiny"
    assert said["needs"] == {"stable": str(study / "stable")}
    assert said["directory"] == str(lab)
    assert (said["place"], said["python"]) == ("slurm", "/shared/bin/python")
    assert (said["image"], said["image_digest"]) == (IMAGE, "sha256:" + "a1" * 32)
    users = said["sources"]["directory"]
    assert users["git_commit"] == git(lab, "rev-parse", "HEAD").strip()
    assert users["diff"] is None
    assert not (study / "logs" / "long" / "environment.json").exists()  # the job writes it where it runs


def test_changes_since_the_commit_lie_beside_the_run_and_go_with_the_next_one(lab: Path) -> None:
    (lab / "runs.py").write_text("rate = 2\n")
    (lab / "new.py").touch()
    one = job(lab / "study", "stable")
    provenance.record([one], PLACE, command="")
    said = read(one.logs / "run.json")["sources"]["directory"]
    assert (said["diff"], said["untracked"]) == ("directory.diff", ["new.py"])
    diff = (one.logs / "directory.diff").read_text()
    assert "-rate = 1\n+rate = 2\n" in diff
    git(lab, "stash", "--quiet")
    (lab / "copy").mkdir()
    (lab / "copy" / "change.diff").write_text(diff)
    git(lab, "apply", "copy/change.diff")
    assert (lab / "runs.py").read_text() == "rate = 2\n"
    git(lab, "checkout", "--quiet", "runs.py")
    provenance.record([one], PLACE, command="")
    assert not (one.logs / "directory.diff").exists()


def test_no_secret_is_written_down(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789secret")
    (lab / "cluster.env").write_text("WANDB_API_KEY=fromthefile99\n")
    (lab / "runs.py").write_text(f'token = "{TOKEN}"\nAPI_KEY = "another-of-12"\n')
    one = job(lab / "study", "stable")
    provenance.record([one], None, command=f"megatron-octo eval --server http://me:word@host/v1 {TOKEN}")
    provenance.note(lab / "study", [one], command=f"x {TOKEN}")
    written = "".join(file.read_text() for file in [*one.logs.iterdir(), lab / "runs.jsonl"])
    assert "runs.py" in written
    for secret in (TOKEN, "0123456789secret", "fromthefile99", "another-of-12", "me:word"):
        assert secret not in written, secret


@pytest.mark.parametrize(
    "line",
    [
        'eos_token="<|end_of_text|>"', "tokenizer = load_tokenizer(model)", "password = getpass.getpass()",
        "max_tokens_per_gpu: int = 16_384", "url = https://host:8000/v1", "api_key = os.environ['WANDB_API_KEY']",
    ],
)  # fmt: skip
def test_code_is_left_as_it_is(line: str) -> None:
    assert source_state.redact(line) == line


@pytest.mark.parametrize(
    "line",
    [TOKEN, f"--token={TOKEN}", "sk-proj-0123456789abcdef", 'client_secret: "abcdef"', "API_KEY=0123456789abcdef",
     "https://ada:word@host/v1", "AKIAABCDEFGHIJKLMNOP", "-----BEGIN RSA PRIVATE KEY-----"],
)  # fmt: skip
def test_what_looks_like_a_secret(line: str) -> None:
    assert source_state.REDACTED in source_state.redact(line)


def test_outside_of_git_nothing_is_said(tmp_path: Path) -> None:
    assert source_state.read(tmp_path) is None


def test_a_package_below_somebodys_work_tree_is_no_part_of_it(lab: Path) -> None:
    (lab / "venv").mkdir()
    (lab / "venv" / "__init__.py").touch()
    assert source_state.read(lab / "venv", tracked="__init__.py") is None
    assert source_state.read(lab / "venv") is not None


def test_the_environment_of_a_job(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "megatron_octo.launch.provenance", tmp_path], check=True)
    said = read(tmp_path / "environment.json")
    assert said["python"].startswith("3.")
    assert said["packages"]["typer"]
    assert said["host"]


@pytest.mark.parametrize(
    ("image", "digest"), [(IMAGE, "sha256:" + "a1" * 32), ("pytorch:25.09", None), ("a.sqsh", None)]
)
def test_the_digest_of_an_image(image: str, digest: str | None) -> None:
    assert provenance.image_digest(image) == digest


def make(out: Path, content: str, **inputs: Path) -> None:
    """A finished stage with one file."""
    with artifacts.stage(out, kind="make", config={"content": content}, inputs=inputs, force=True) as stage:
        (stage.directory / "model").mkdir()
        (stage.directory / "model" / "weights").write_text(content)
        (stage.directory / "metrics.jsonl").write_text(content)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """world -> stable -> long, which reads a directory inside of stable, and one file of the user's."""
    monkeypatch.chdir(tmp_path)
    Path("mine.jsonl").write_text("mine")
    make(Path("study/world"), "a")
    make(Path("study/stable"), "b", text=Path("study/world/metrics.jsonl"))
    make(Path("study/long"), "c", init=Path("study/stable/model"), world=Path("study/world"), mine=Path("mine.jsonl"))
    return tmp_path / "study"


def feeds(study: Path) -> dict[str, tuple[Feed, ...]]:
    return {run.stage: run.feeds for run in runs.read(study).runs}


def test_which_stage_fed_which(study: Path) -> None:
    found = feeds(study)
    assert list(found) == ["world", "stable", "long"]
    assert [(feed.name, feed.stage, feed.changed) for feed in found["long"]] == [
        ("init", "stable", False), ("world", "world", False), ("mine", None, False),
    ]  # fmt: skip
    assert found["stable"][0].stage == "world"


def test_paths_begin_where_the_run_was_started(study: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    provenance.record([job(study, name) for name in ("world", "stable", "long")], PLACE, command="again")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert feeds(study)["long"][0].stage == "stable"
    assert {run.command for run in runs.read(study).runs} == {"again"}
    assert {run.image for run in runs.read(study).runs} == {"sha256:" + "a1" * 32}


@pytest.mark.parametrize(("stage", "stale"), [("world", {"stable", "long"}), ("stable", {"long"}), ("long", set())])
def test_what_was_made_anew_since_is_told(study: Path, stage: str, stale: set[str]) -> None:
    make(study / stage, "other")
    assert {name for name, found in feeds(study).items() if any(feed.changed for feed in found)} == stale
    assert ("made anew since" in runs.as_text(runs.read(study))) is bool(stale)


def test_submissions_of_a_study_and_of_all_in_a_directory(study: Path) -> None:
    provenance.note(study, [job(study, "stable")], command="megatron-octo study tiny")
    provenance.note(study.parent / "other", [], command="megatron-octo study llama32_3b")
    assert [each.command for each in runs.read(study).submissions] == ["megatron-octo study tiny"]
    assert runs.read(study).submissions[0].jobs == {"stable": None}
    everything = runs.read(study.parent)
    assert len(everything.submissions) == 2
    assert [run.stage for run in everything.runs] == ["study/world", "study/stable", "study/long"]


def test_hosts_are_those_of_the_newest_session(study: Path) -> None:
    one = job(study, "stable")
    provenance.record([one], PLACE, command="")
    for number, hosts in enumerate(("node1", "node2")):
        (one.logs / f"session-{number}").mkdir()
        artifacts.write_json(one.logs / f"session-{number}" / "environment.json", {"host": "x", "hosts": hosts})
    assert {run.stage: run.hosts for run in runs.read(study).runs}["stable"] == "node2"
    (one.logs / "session-2").mkdir()  # of a job without our package's word
    row = {"session": 2, "exit_code": 0, "verdict": "done", "reason": "", "nodes": "node3"}
    jsonl.append(one.logs / "sessions.jsonl", [row])
    assert {run.stage: run.hosts for run in runs.read(study).runs}["stable"] == "node3"


def test_as_text_and_as_json(study: Path) -> None:
    lines = runs.as_text(runs.read(study)).splitlines()
    assert lines[0].split() == ["stage", "kind", "finished", "commit", "on", "from"]
    assert lines[3].endswith("stable, world, mine.jsonl")
    assert json.loads(runs.as_json(runs.read(study)))["runs"][2]["feeds"][0]["stage"] == "stable"


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no stage"):
        runs.read(tmp_path)
