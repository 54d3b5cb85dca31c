"""A checkpoint's way onto the disk and back off it: nothing half-written under a name, whenever the process is killed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_octo import checksums
from megatron_octo.checksums import Checksum
from megatron_octo.training import publishing


def written(checkpoints: Path, step: int) -> Path:
    """A directory with all its files, ready to be published."""
    partial = publishing.make_partial(checkpoints, step)
    (partial / "__0_0.distcp").write_bytes(b"weights of step %d" % step)
    (partial / ".metadata").write_bytes(b"where they are")
    return partial


def published(checkpoints: Path, *steps: int) -> None:
    for step in steps:
        publishing.publish(written(checkpoints, step), step, {})


def damage(checkpoint: Path) -> list[str]:
    expected = checksums.read(checkpoint)
    assert expected is not None
    return checksums.damage(checkpoint, expected)


def test_a_published_checkpoint_has_its_name_and_checksums_and_latest_names_it(tmp_path: Path) -> None:
    known = {"__0_0.distcp": Checksum(bytes=17, sha256="made by the writer")}
    total_bytes = publishing.publish(written(tmp_path, 5), 5, known)
    assert total_bytes == 17 + 14
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iter_0000005", "latest"]
    assert publishing.named_latest(tmp_path) == "iter_0000005"
    assert checksums.read(tmp_path / "iter_0000005") == {
        **known,
        ".metadata": Checksum(bytes=14, sha256="da738d4708bc6e76015acbfb2b8be6d3e6dc80823ab15b4e3c2c49cf17889d85"),
    }


def test_a_partial_directory_is_never_shared(tmp_path: Path) -> None:
    """Writers of a killed run may go on in theirs."""
    assert publishing.make_partial(tmp_path, 5) != publishing.make_partial(tmp_path, 5)


class Killed(BaseException):
    """As if the process had ended there."""


def killed_at(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """End the process before its `number`th change of the disk that others can see."""
    calls = 0

    def then_killed(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                raise Killed
            return real(*arguments, **options)

        return call

    for name in ("replace", "fsync", "unlink", "rmdir"):
        monkeypatch.setattr(os, name, then_killed(getattr(os, name)))


def save(checkpoints: Path, step: int) -> None:
    publishing.publish(written(checkpoints, step), step, {})
    publishing.prune(checkpoints, keep=1, keep_every=None)


@pytest.mark.parametrize("step", [6, 5])
def test_killed_at_any_moment_latest_names_a_complete_checkpoint(tmp_path: Path, step: int) -> None:
    """Also when the checkpoint being published was there before, given up for an older one."""
    for number in range(1, 100):
        checkpoints = tmp_path / str(number)
        published(checkpoints, 4, 5, 4)
        with pytest.MonkeyPatch.context() as monkeypatch:
            killed_at(number, monkeypatch)
            try:
                save(checkpoints, step)
            except Killed:
                ended = False
            else:
                ended = True
        newest = publishing.named_latest(checkpoints)
        assert newest in ("iter_0000004", publishing.checkpoint_name(step))
        for name in publishing.complete_ones(checkpoints):
            assert damage(checkpoints / name) == []
        assert newest in publishing.complete_ones(checkpoints)
        if ended:
            assert number > 10
            assert newest == publishing.checkpoint_name(step)
            return


def test_leftovers_of_killed_runs_are_removed(tmp_path: Path) -> None:
    published(tmp_path, 5)
    written(tmp_path, 6)
    publishing.remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iter_0000005", "latest"]
    publishing.remove_leftovers(tmp_path / "not_there_yet")


@pytest.mark.parametrize(
    ("keep", "keep_every", "left"),
    [(2, None, [5, 6]), (1, 3, [3, 6]), (1, 2, [2, 4, 6]), (10, None, [1, 2, 3, 4, 5, 6])],
)
def test_the_newest_and_every_so_many_steps_stay(
    tmp_path: Path, keep: int, keep_every: int | None, left: list[int]
) -> None:
    published(tmp_path, 1, 2, 3, 4, 5, 6)
    publishing.prune(tmp_path, keep=keep, keep_every=keep_every)
    assert publishing.complete_ones(tmp_path) == [f"iter_{step:07d}" for step in left]


def test_what_latest_names_stays(tmp_path: Path) -> None:
    """A run that went back to step 1 must find it when it is started again."""
    published(tmp_path, 1, 2, 3)
    (tmp_path / "latest").write_text("iter_0000001\n")
    publishing.prune(tmp_path, keep=1, keep_every=None)
    assert publishing.complete_ones(tmp_path) == ["iter_0000001", "iter_0000003"]


def test_damaged_files_are_named_with_what_is_wrong(tmp_path: Path) -> None:
    for name in ("cut", "flipped", "gone", "good"):
        (tmp_path / name).write_bytes(b"0123456789")
    checksums.write(tmp_path, {})
    (tmp_path / "cut").write_bytes(b"012345678")
    (tmp_path / "flipped").write_bytes(b"0123456788")
    (tmp_path / "gone").unlink()
    assert damage(tmp_path) == [
        "cut has 9 bytes instead of 10",
        "flipped has the right size but other bytes than were written",
        "gone is missing",
    ]


def test_ranks_share_the_files_by_size() -> None:
    sizes = {"a": 100, "b": 1, "c": 90, "d": 2, "e": 0}
    all_files = {name: Checksum(bytes=size, sha256="") for name, size in sizes.items()}
    shares = [checksums.share(all_files, rank=rank, ranks=2) for rank in range(2)]
    assert [sorted(share) for share in shares] == [["a", "d", "e"], ["b", "c"]]


@pytest.mark.parametrize("text", ["", "[1]", '{"a": 1}', '{"a": {"bytes": 1}}'])
def test_checksums_that_are_none_are_said_to_be(tmp_path: Path, text: str) -> None:
    (tmp_path / "checksums.json").write_text(text)
    with pytest.raises(ValueError, match=r"Expecting value|not a list of checksums"):
        checksums.read(tmp_path)


def test_no_checksums_are_none(tmp_path: Path) -> None:
    assert checksums.read(tmp_path) is None
