"""A stage directory is finished or it is not, and says what made it."""

import dataclasses
import errno
import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from megatron_octo import artifacts, recipes
from megatron_octo.config import AT_RUN_TIME
from megatron_octo.errors import ArtifactError, ResourceError
from megatron_octo.training.blend import blend
from megatron_octo.training.config import TrainingJob
from megatron_octo.training.parallelism import Parallelism


def mark(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "stage.json").read_text())


def make(directory: Path, *, config: Any = None, text: str = "made", kind: str = "make", **options: Any) -> bool:
    """Run a stage that writes one file; whether it had been done before."""
    with artifacts.stage(directory, kind=kind, config={"size": 1} if config is None else config, **options) as stage:
        if not stage.done:
            (stage.directory / "file.txt").write_text(text)
            stage.counts["files"] = 1
        return stage.done


def test_what_a_finished_stage_says_about_itself(tmp_path: Path) -> None:
    source = tmp_path / "source.txt"
    source.write_text("source")
    out = tmp_path / "deep" / "out"
    make(out, inputs={"text": source})
    found = mark(out)
    assert (found["done"], found["kind"], found["config"], found["counts"]) == (True, "make", {"size": 1}, {"files": 1})
    assert found["inputs"]["text"] == {
        "path": str(source), "sha256": "41cf6794ba4200b839c53531555f0f3998df4cbb01a4d5cb0b94e3ca5e23947d",
    }  # fmt: skip
    assert found["outputs"] == {"file.txt": "ea0890697a77af0a2e054cccec587c8a42feb5cf38e778c6c6e2a96bfb945c0b"}
    assert {"python", "megatron-octo"} <= found["versions"].keys()
    assert {"git_commit", "finished_at"} <= found.keys()
    assert 0 <= found["wall_seconds"] < 60
    assert artifacts.finished(out) == found


def test_done_only_at_the_end(tmp_path: Path) -> None:
    with artifacts.stage(tmp_path / "out", kind="make", config={}) as stage:
        assert mark(stage.directory)["done"] is False
        assert not stage.done
    assert mark(tmp_path / "out")["done"] is True


def fail_half_way(out: Path, error: type[BaseException], *, resumable: bool) -> None:
    with artifacts.stage(out, kind="make", config={}, resumable=resumable) as stage:
        (stage.directory / "half").write_text("half")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failing_block_leaves_a_resumable_stage_undone(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        fail_half_way(tmp_path, error, resumable=True)
    assert mark(tmp_path)["done"] is False
    with pytest.raises(ArtifactError, match="did not finish"):
        artifacts.finished(tmp_path)
    assert not artifacts.is_finished(tmp_path, config={})
    with artifacts.stage(tmp_path, kind="make", config={}, resumable=True) as stage:
        assert (stage.directory / "half").exists()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failing_block_leaves_nothing_of_a_stage_that_does_not_resume(
    tmp_path: Path, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        fail_half_way(tmp_path / "out", error, resumable=False)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_stage_left_does_not_bind_the_next_try(tmp_path: Path) -> None:
    """After kill -9 there is an unfinished mark; a stage that does not resume may then be made with another config."""
    out = tmp_path / "out"
    make(out)
    artifacts.write_json(out / "stage.json", mark(out) | {"done": False})
    (out / "half").write_text("half")
    assert not artifacts.is_finished(out, config={"size": 2})
    with artifacts.stage(out, kind="make", config={"size": 2}) as stage:
        assert not stage.done
        assert not (out / "half").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_resumed_stage_reports_the_time_of_all_its_tries(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), artifacts.stage(tmp_path, kind="make", config={}, resumable=True):
        raise RuntimeError
    artifacts.write_json(tmp_path / "stage.json", mark(tmp_path) | {"wall_seconds": 1000.0})
    make(tmp_path, config={}, resumable=True)
    assert 1000 <= mark(tmp_path)["wall_seconds"] < 1060


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    assert not make(tmp_path)
    before = (tmp_path / "stage.json").read_bytes()
    assert make(tmp_path, text="other")
    assert (tmp_path / "stage.json").read_bytes() == before
    assert (tmp_path / "file.txt").read_text() == "made"
    assert artifacts.is_finished(tmp_path, config={"size": 1})


@pytest.mark.parametrize("resumable", [False, True])
def test_a_changed_config_names_the_field_and_both_values(tmp_path: Path, resumable: bool) -> None:
    make(tmp_path, config={"a": {"size": 1}, "b": 2}, resumable=resumable)
    with pytest.raises(ArtifactError, match=re.escape("a.size: 1 -> 3")) as caught:
        make(tmp_path, config={"a": {"size": 3}, "b": 2}, resumable=resumable)
    assert "--force" in str(caught.value)
    assert "b:" not in str(caught.value)
    with pytest.raises(ArtifactError, match=re.escape("a.size: 1 -> 3")):
        artifacts.is_finished(tmp_path, config={"a": {"size": 3}, "b": 2})
    assert (tmp_path / "file.txt").read_text() == "made"


def test_a_run_goes_on_at_another_layout_and_not_on_another_blend(tmp_path: Path) -> None:
    recipe = recipes.load("tiny.stable")
    job = TrainingJob(recipe=recipe, shards=tmp_path)
    make(tmp_path / "out", config=job, resumable=True)
    elsewhere = dataclasses.replace(recipe, micro_batch_size=1, parallelism=Parallelism(tensor_model_parallel_size=2))
    assert make(tmp_path / "out", config=dataclasses.replace(job, recipe=elsewhere), resumable=True)
    other = dataclasses.replace(recipe, blend=blend(web=1.0))
    with pytest.raises(ArtifactError, match=r"recipe\.blend\.shares"):
        make(tmp_path / "out", config=dataclasses.replace(job, recipe=other), resumable=True)


def test_an_unfinished_stage_is_not_continued_with_another_config(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), artifacts.stage(tmp_path, kind="make", config={"size": 1}, resumable=True):
        raise RuntimeError
    with pytest.raises(ArtifactError, match="was started with another config"):
        make(tmp_path, config={"size": 2}, resumable=True)


def test_a_changed_input_is_an_error(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.write_text("one")
    make(out, inputs={"text": source})
    source.write_text("two")
    with pytest.raises(ArtifactError, match=r"another input 'text'.*7692c3ad3540 -> sha256 3fc4ccfe7458"):
        make(out, inputs={"text": source})
    with pytest.raises(ArtifactError, match="another input 'text'"):
        artifacts.is_finished(out, config={"size": 1})
    assert not make(out, inputs={"text": source}, force=True)


def test_what_a_finished_stage_was_made_from_may_be_gone(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.write_text("one")
    make(out, inputs={"text": source}, raw_inputs={"raw": source})
    source.unlink()
    assert artifacts.is_finished(out, config={"size": 1})
    with pytest.raises(ArtifactError, match="size: 1 -> 2"):
        artifacts.is_finished(out, config={"size": 2})


@pytest.mark.parametrize("done", [True, False])
def test_a_run_may_be_moved(tmp_path: Path, done: bool) -> None:
    """The config of its second stage names the directory of the first."""

    def second(run: Path) -> bool:
        return make(run / "b", config={"reads": str(run / "a")}, inputs={"a": run / "a"}, resumable=True)

    make(tmp_path / "old" / "a")
    second(tmp_path / "old")
    if not done:
        artifacts.write_json(tmp_path / "old/b/stage.json", mark(tmp_path / "old/b") | {"done": False})
    run = (tmp_path / "old").rename(tmp_path / "new")
    assert artifacts.is_finished(run / "b", config={"reads": str(run / "a")}) is done
    assert second(run) is done
    make(tmp_path / "other", text="other")
    for open_other in (
        lambda: artifacts.is_finished(run / "b", config={"reads": str(tmp_path / "other")}),
        lambda: make(run / "b", config={"reads": str(tmp_path / "other")}, inputs={"a": tmp_path / "other"}),
    ):
        with pytest.raises(ArtifactError, match="with another input 'a'"):
            open_other()


def test_another_path_of_raw_inputs_is_another_config_until_the_stage_is_done(tmp_path: Path) -> None:
    """Nothing else tells them apart by then."""
    for name in ("one", "two"):
        (tmp_path / name).write_text("raw")
    one, two = (
        {"config": {"reads": str(tmp_path / name)}, "raw_inputs": {"text": tmp_path / name}} for name in ("one", "two")
    )
    make(tmp_path / "out", resumable=True, **one)
    with pytest.raises(ArtifactError, match="with another input 'text'"):
        make(tmp_path / "out", resumable=True, **two)
    artifacts.write_json(tmp_path / "out/stage.json", mark(tmp_path / "out") | {"done": False})
    with pytest.raises(ArtifactError, match="with another config"):
        make(tmp_path / "out", resumable=True, **two)


@pytest.mark.parametrize(
    "now",
    [
        pytest.param({"reads": "new", "also": "b"}, id="a directory that is not there"),
        pytest.param({"reads": "", "also": "b"}, id="none"),
        pytest.param({"reads": "b", "also": "a"}, id="swapped"),
        pytest.param({"reads": "a", "also": "new"}, id="one of two"),
        pytest.param({"reads": ".", "also": "b"}, id="the directory above"),
    ],
)
@pytest.mark.parametrize("gone", [False, True])
def test_inputs_elsewhere_are_seen_before_they_count(tmp_path: Path, now: dict[str, str], gone: bool) -> None:
    def config(named: dict[str, str]) -> dict[str, str]:
        return {key: name and str(tmp_path / name) for key, name in named.items()}

    for name in ("a", "b"):
        make(tmp_path / name, text=name)
    made = config({"reads": "a", "also": "b"})
    make(tmp_path / "out", config=made, inputs={"1": tmp_path / "a", "2": tmp_path / "b"})
    if gone:
        for name in ("a", "b"):
            shutil.rmtree(tmp_path / name)
    assert artifacts.is_finished(tmp_path / "out", config=made)
    with pytest.raises(ArtifactError, match="with another"):
        artifacts.is_finished(tmp_path / "out", config=config(now))


def test_what_lies_below_two_moved_directories_is_where_the_nearer_went(tmp_path: Path) -> None:
    def config(run: Path, model: Path) -> dict[str, str]:
        return {"run": str(run), "model": str(model)}

    run, model = tmp_path / "run", tmp_path / "run" / "model"
    make(run / "data", text="data")
    make(model, text="model")
    inputs = {"data": run / "data", "model": model}
    make(tmp_path / "out", config=config(run, model), inputs=inputs)
    new = model.rename(tmp_path / "model")
    assert artifacts.is_finished(tmp_path / "out", config=config(run, new))
    assert artifacts.is_finished(tmp_path / "out", config=config(run.rename(tmp_path / "moved"), new))


def test_an_unfinished_stage_needs_its_inputs(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.write_text("one")
    with (
        pytest.raises(RuntimeError),
        artifacts.stage(out, kind="make", config={}, inputs={"text": source}, resumable=True),
    ):
        raise RuntimeError
    assert not artifacts.is_finished(out, config={})
    source.unlink()
    with pytest.raises(ArtifactError, match="does not exist"):
        artifacts.is_finished(out, config={})


def test_an_input_that_is_gone_may_be_given_as_it_was_recorded(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.write_text("one")
    with (
        pytest.raises(RuntimeError),
        artifacts.stage(out, kind="make", config={}, inputs={"text": source}, resumable=True),
    ):
        raise RuntimeError
    source.unlink()
    recorded = mark(out)["inputs"]["text"]
    with pytest.raises(ArtifactError, match="another input 'text'"):
        make(out, config={}, inputs={"text": recorded | {"sha256": "f00d"}}, resumable=True)
    assert not make(out, config={}, inputs={"text": recorded}, resumable=True)
    assert mark(out)["inputs"] == {"text": recorded}


def test_force_starts_over_even_a_resumable_stage(tmp_path: Path) -> None:
    make(tmp_path, config={"size": 1}, resumable=True)
    (tmp_path / "checkpoint").write_text("old")
    assert not make(tmp_path, config={"size": 2}, text="again", resumable=True, force=True)
    assert (tmp_path / "file.txt").read_text() == "again"
    assert not (tmp_path / "checkpoint").exists()
    assert mark(tmp_path)["config"] == {"size": 2}


@pytest.mark.parametrize("killed", [False, True])
def test_force_leaves_what_is_to_be_kept(tmp_path: Path, killed: bool) -> None:
    """Also where the first try to clear the stage was killed half way."""
    out, keep = tmp_path / "out", Path("logs", "answers")
    make(out, config={"size": 1}, resumable=True)
    (out / keep).mkdir(parents=True)
    (out / keep / "a.jsonl").write_text("paid")
    (out / "logs" / "other.log").write_text("said")
    if killed:
        artifacts._put_aside(out, keep)
        artifacts._clear(out)
    assert not make(out, config={"size": 2}, text="again", resumable=True, force=True, keep=keep)
    found = sorted(str(file.relative_to(out)) for file in out.rglob("*") if file.is_file())
    assert found == ["file.txt", "logs/answers/a.jsonl", "stage.json"]
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("force", [False, True])
def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path, force: bool) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ArtifactError, match="is not empty and no stage of ours made it"):
        make(tmp_path, force=force)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("force", [False, True])
def test_a_directory_of_another_kind_of_stage_is_left_alone(tmp_path: Path, force: bool) -> None:
    make(tmp_path, kind="train", text="weeks of work")
    with pytest.raises(ArtifactError, match="holds a train stage, not make"):
        make(tmp_path, force=force)
    assert (tmp_path / "file.txt").read_text() == "weeks of work"


@pytest.mark.parametrize("text", ["{", "", "[]"])
def test_a_broken_mark_is_said_and_force_gets_past_it(tmp_path: Path, text: str) -> None:
    make(tmp_path)
    (tmp_path / "stage.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"stage.json cannot be read .*--force"):
        make(tmp_path)
    assert not make(tmp_path, force=True)
    assert mark(tmp_path)["done"]


def test_too_little_disk(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"needs 1e\+09 TB of disk, .* are free"):
        make(tmp_path / "out", needs_bytes=10**21)
    assert not (tmp_path / "out").exists()


def test_an_input_must_be_there_and_finished(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        make(tmp_path / "out", inputs={"text": tmp_path / "missing"})
    with pytest.raises(RuntimeError), artifacts.stage(tmp_path / "before", kind="make", config={}, resumable=True):
        raise RuntimeError
    with pytest.raises(ArtifactError, match="did not finish"):
        make(tmp_path / "out", inputs={"stage": tmp_path / "before"})
    assert not (tmp_path / "out").exists()


def test_a_stage_as_input_counts_by_its_outputs_alone(tmp_path: Path) -> None:
    make(tmp_path / "a")
    make(tmp_path / "b", config={"size": 2})
    make(tmp_path / "c", text="other")
    same, other = artifacts.fingerprint(tmp_path / "a"), artifacts.fingerprint(tmp_path / "c")
    assert same == artifacts.fingerprint(tmp_path / "b")
    assert same != other


def test_outputs_are_hashed_but_not_logs(tmp_path: Path) -> None:
    with artifacts.stage(tmp_path, kind="make", config={}) as stage:
        (stage.directory / "sub").mkdir()
        (stage.directory / "sub" / "file").write_text("")
        (stage.logs / "log").write_text("log")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert mark(tmp_path)["outputs"] == {"sub/file": empty}


def test_json_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    artifacts.write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        artifacts.write_json(file, {"a": 2, "b": object()})
    assert json.loads(file.read_text()) == {"a": 1}
    artifacts.write_json(file, {"a": 3})
    assert json.loads(file.read_text()) == {"a": 3}
    assert not [path for path in tmp_path.iterdir() if path != file]


def test_the_commit_is_a_commit_or_nothing() -> None:
    commit = artifacts.git_commit()
    assert commit is None or re.fullmatch(r"[0-9a-f]{40}(\+changes)?", commit)


def test_no_stage_where_there_is_none(tmp_path: Path) -> None:
    assert artifacts.read_mark(tmp_path) is None
    assert not artifacts.is_finished(tmp_path, config={})
    with pytest.raises(ArtifactError, match="is no stage directory"):
        artifacts.finished(tmp_path)


def test_a_shared_stage_is_opened_by_many_at_once(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def open_and_leave(number: int) -> None:
        with artifacts.stage(out, kind="make", config={"a": 1}, resumable=True, shared=True) as stage:
            (out / f"{number}").write_text("made")
            stage.complete = number == 19

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(open_and_leave, range(20)))
    with artifacts.stage(out, kind="make", config={"a": 1}, resumable=True, shared=True) as stage:
        assert stage.done
    with (
        pytest.raises(ArtifactError, match="another config"),
        artifacts.stage(out, kind="make", config={"a": 2}, resumable=True, shared=True),
    ):
        pass


def test_an_incomplete_shared_stage_stays_open(tmp_path: Path) -> None:
    with artifacts.stage(tmp_path / "out", kind="make", config={}, resumable=True, shared=True) as stage:
        stage.complete = False
    assert not artifacts.is_finished(tmp_path / "out", config={})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    what: str = "text"
    workers: int = dataclasses.field(default=1, metadata=AT_RUN_TIME)


def test_how_a_stage_runs_is_recorded_and_may_change(tmp_path: Path) -> None:
    make(tmp_path / "out", config=Work(workers=3))
    assert artifacts.finished(tmp_path / "out")["config"] == {"what": "text", "workers": 3}
    assert artifacts.is_finished(tmp_path / "out", config=Work(workers=8))
    with pytest.raises(ArtifactError, match="what: 'text' -> 'code'"):
        artifacts.is_finished(tmp_path / "out", config=Work(what="code"))


def test_raw_inputs_are_known_by_size_and_time(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.write_text("one")
    with artifacts.stage(out, kind="make", config={}, raw_inputs={"text": source}):
        pass
    assert artifacts.is_finished(out, config={})
    source.write_text("three")
    with pytest.raises(ArtifactError, match=r"another input 'text' .*: 3 bytes of 20\d\d-.*Z -> 5 bytes of"):
        artifacts.is_finished(out, config={})


def test_what_is_read_may_not_lie_in_what_is_made(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with artifacts.stage(out, kind="test", config={"size": 1}):
        (out / "made").write_text("x")
    for force in (True, False):
        with (
            pytest.raises(ArtifactError, match=r"the input .*made lies in the directory to make, .*out; name another"),
            artifacts.stage(out, kind="test", config={"size": 1}, inputs={"made": out / "made"}, force=force),
        ):
            pass
    assert (out / "made").read_text() == "x"


def test_a_directory_that_cannot_be_renamed_is_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's volume is a mount point."""
    rename = os.replace

    def refuse(source: Path, destination: Path) -> None:
        if source == tmp_path / "out":
            raise OSError(errno.EBUSY, "Device or resource busy")
        rename(source, destination)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(ValueError, match="went wrong"):
        fail_half_way(tmp_path / "out", ValueError("went wrong"), resumable=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_one_process_at_a_time_works_somewhere(tmp_path: Path) -> None:
    def enter(*, shared: bool) -> None:
        with artifacts.alone(tmp_path / ".lock", shared=shared):
            pass

    with artifacts.alone(tmp_path / ".lock", shared=True):
        enter(shared=True)
        with pytest.raises(ArtifactError, match="another process is at work in"):
            enter(shared=False)
    enter(shared=False)


@pytest.mark.parametrize("done", [True, False])
def test_what_is_locked_for_the_end_goes_when_it_is_reached(tmp_path: Path, done: bool) -> None:
    """While others may still wait for it, it stays: one who makes it anew would not wait for them."""

    def work() -> None:
        with artifacts.one_at_a_time(tmp_path / "out"):
            if not done:
                raise ValueError("failed")

    make(tmp_path / "out")
    artifacts.write_json(tmp_path / "out" / artifacts.MARK, mark(tmp_path / "out") | {"done": done})
    if done:
        work()
    else:
        with pytest.raises(ValueError, match="failed"):
            work()
    assert (tmp_path / "out" / ".finishing").exists() is not done


def test_a_finished_stage_stays_finished_whatever_another_process_ends_with(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def fail_while_another_finishes() -> None:
        with artifacts.stage(out, kind="test", config={"size": 1}, resumable=True):
            artifacts.write_json(out / artifacts.MARK, mark(out) | {"done": True})
            raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"):
        fail_while_another_finishes()
    assert artifacts.is_done(out)


def test_counts_can_be_added(tmp_path: Path) -> None:
    with artifacts.stage(tmp_path / "out", kind="test", config={"size": 1}) as stage:
        stage.counts["lines"] = 3
    artifacts.add_counts(tmp_path / "out", {"checked": 2})
    assert artifacts.finished(tmp_path / "out")["counts"] == {"lines": 3, "checked": 2}
