from pathlib import Path

import pytest

from megatron_octo.curation.raw import inputs
from megatron_octo.errors import CorpusError


def make(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(b"x")


def test_resolves_rows_and_archives_below_directories_and_globs(tmp_path: Path) -> None:
    make(
        tmp_path,
        "a/x.jsonl.zst",
        "a/CC-MAIN-2019-13/y.warc.gz",
        "a/z.parquet",
        "a/notes.txt",
        "a/.hidden.warc",
        "b/w.warc",
    )
    found = inputs.resolve([tmp_path / "a", tmp_path / "*/*.warc"])
    assert [str(file.relative_to(tmp_path)) for file in found] == [
        "a/CC-MAIN-2019-13/y.warc.gz",
        "a/x.jsonl.zst",
        "a/z.parquet",
        "b/w.warc",
    ]
    assert inputs.resolve([tmp_path / "b"]) == [tmp_path / "b/w.warc"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "no such file"),
        ("a.txt", r"unknown kind .*\.warc"),
        ("a.arrow", "save the data set as Parquet"),
        ("gone.warc", "cannot read"),
    ],
)
def test_refuses_what_is_no_corpus(tmp_path: Path, name: str, message: str) -> None:
    make(tmp_path, "a.txt", "a.arrow")
    with pytest.raises(CorpusError, match=message):
        inputs.resolve([tmp_path / name])


def test_no_inputs() -> None:
    with pytest.raises(CorpusError, match="no inputs given"):
        inputs.resolve([])


@pytest.mark.parametrize(
    ("sizes", "parts", "expected"),
    [
        ([5, 1, 4, 2], 2, [[0, 1], [2, 3]]),
        ([9, 9, 9], 2, [[0, 2], [1]]),
        ([7], 3, [[0], [], []]),
        ([0, 0, 0, 0], 2, [[0, 2], [1, 3]]),
        ([], 1, [[]]),
    ],
)
def test_files_are_dealt_evenly(sizes: list[int], parts: int, expected: list[list[int]]) -> None:
    assert inputs.dealt(sizes, parts) == expected


def test_labels_tell_files_apart() -> None:
    assert inputs.labels([Path("a/x.jsonl"), Path("b/y.jsonl")]) == ["x.jsonl", "y.jsonl"]
    assert inputs.labels([Path("d/a/x.jsonl"), Path("d/b/x.jsonl")]) == ["a/x.jsonl", "b/x.jsonl"]


def test_what_a_path_tells() -> None:
    file = Path("/crawl/CC-MAIN-2019-13/segments/1/warc/a.warc.gz")
    assert inputs.dump_of(file) == "CC-MAIN-2019-13"
    assert inputs.path_in_crawl(file) == "CC-MAIN-2019-13/segments/1/warc/a.warc.gz"
    assert inputs.dump_of(Path("a.warc")) is None
