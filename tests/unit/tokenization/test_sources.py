import json
import sys
from pathlib import Path

import datasets
import pytest

from megatron_octo.errors import CorpusError
from megatron_octo.tokenization import sources
from megatron_octo.tokenization.sources import Kind, Piece


def touch(directory: Path, *names: str) -> None:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n")


def resolved(directory: Path, *patterns: str) -> list[str]:
    files = sources.resolve([directory / pattern for pattern in patterns])
    return [str(file.relative_to(directory)) for file in files]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jsonl", Kind.LINES),
        ("a.json", Kind.LINES),
        ("a.ndjson", Kind.LINES),
        ("a.b.jsonl.gz", Kind.GZIP_LINES),
        ("a.json.zst", Kind.ZSTD_LINES),
        ("a.parquet", Kind.PARQUET),
        ("a.arrow", Kind.ARROW),
        ("a.txt", None),
        ("a.txt.gz", None),
        ("a.parquet.gz", None),
        ("jsonl", None),
    ],
)
def test_kind_is_told_by_the_name(name: str, kind: Kind | None) -> None:
    assert sources.kind_of(Path(name)) is kind


def test_a_directory_gives_all_corpus_files_below_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "c/b.jsonl", "c/a.parquet", "c/d/x.json.zst", "c/README.md", "c/.hidden.jsonl", "c/_SUCCESS.json")
    touch(tmp_path, "c/_temporary/y.jsonl", "c/.cache/z.jsonl", "c/dataset_info.json", "c/stage.json")
    assert resolved(tmp_path, "c") == ["c/a.parquet", "c/b.jsonl", "c/d/x.json.zst"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["*.jsonl"], ["a.jsonl", "b.jsonl"]),
        (["**/*.jsonl"], ["a.jsonl", "b.jsonl", "d/c.jsonl"]),
        (["**"], ["a.jsonl", "b.jsonl", "d/c.jsonl"]),
        (["*"], ["a.jsonl", "b.jsonl", "d/c.jsonl"]),
        (["[b-z].jsonl"], ["b.jsonl"]),
        (["d", "b.jsonl"], ["d/c.jsonl", "b.jsonl"]),
        (["b.jsonl", "*.jsonl", "d/../b.jsonl"], ["b.jsonl", "a.jsonl"]),
    ],
)
def test_patterns_keep_their_order_and_files_come_once(
    tmp_path: Path, patterns: list[str], expected: list[str]
) -> None:
    touch(tmp_path, "b.jsonl", "a.jsonl", "d/c.jsonl", "notes.txt")
    assert resolved(tmp_path, *patterns) == expected


def test_brackets_in_a_name_that_exists_are_no_glob(tmp_path: Path) -> None:
    touch(tmp_path, "a[1].jsonl", "a1.jsonl", "d[2]/b.jsonl")
    assert resolved(tmp_path, "a[1].jsonl", "d[2]") == ["a[1].jsonl", "d[2]/b.jsonl"]


def test_a_saved_dataset_gives_its_own_files_in_its_own_order(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["a", "b", "c"]}).save_to_disk(tmp_path / "saved", num_shards=2)
    touch(tmp_path, "saved/cache-0123.arrow")
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    assert resolved(tmp_path / "saved", "") == names
    state = json.loads((tmp_path / "saved/state.json").read_text())
    state["_data_files"].reverse()
    (tmp_path / "saved/state.json").write_text(json.dumps(state))
    assert resolved(tmp_path / "saved", "") == names[::-1]


def test_a_saved_dataset_dict_gives_all_splits(tmp_path: Path) -> None:
    split = datasets.Dataset.from_dict({"text": ["a"]})
    datasets.DatasetDict(train=split, test=split).save_to_disk(tmp_path / "saved")
    name = "data-00000-of-00001.arrow"
    assert resolved(tmp_path, "saved") == [f"saved/test/{name}", f"saved/train/{name}"]


def test_links_are_followed_and_circles_end(tmp_path: Path) -> None:
    touch(tmp_path, "blobs/0123.jsonl", "c/a.jsonl")
    (tmp_path / "c/linked").symlink_to(tmp_path / "blobs")
    (tmp_path / "c/circle").symlink_to(tmp_path / "c")
    (tmp_path / "c/b.jsonl").symlink_to(tmp_path / "blobs/0123.jsonl")
    # The file in `blobs` has two names here and is read once.
    assert resolved(tmp_path, "c") == ["c/a.jsonl", "c/b.jsonl"]
    assert resolved(tmp_path, "c/linked") == ["c/linked/0123.jsonl"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("missing.jsonl", r"cannot read .*missing\.jsonl: no such file"),
        ("d/link.jsonl", r"cannot read .*link\.jsonl: no such file"),
        ("d", r"cannot read .*link\.jsonl: no such file"),
        ("a.txt", r"a\.txt: unknown kind of corpus file; allowed are \.jsonl, .*\.zst, \.parquet and \.arrow"),
        ("missing", r"cannot read .*missing: no such file or directory; name what exists and may be read"),
        ("*.parquet", r"\*\.parquet: no corpus file matches; allowed are \.jsonl"),
        ("empty", r"empty: no corpus file in this directory; allowed are \.jsonl"),
        ("broken", r"cannot read .*broken/state\.json .*; save the dataset again or name its \.arrow files"),
    ],
)
def test_patterns_that_give_nothing_are_named(tmp_path: Path, pattern: str, message: str) -> None:
    touch(tmp_path, "a.txt", "empty/README.md", "broken/data.arrow", "d/a.jsonl")
    (tmp_path / "d/link.jsonl").symlink_to(tmp_path / "gone.jsonl")
    (tmp_path / "broken/state.json").write_text("{")
    with pytest.raises(CorpusError, match=message):
        sources.resolve([tmp_path / pattern])


def test_no_patterns() -> None:
    with pytest.raises(CorpusError, match="no input files given; name files, directories or globs"):
        sources.resolve([])


def test_resolving_opens_no_file(tmp_path: Path) -> None:
    touch(tmp_path, "a.jsonl", "b.parquet")
    opened, watching = [], True
    # Audit hooks stay for good; this one falls silent with the list.
    sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "open" and watching else None)
    sources.resolve([tmp_path])
    watching = False
    assert opened == []


@pytest.mark.parametrize("whole", [0, 1, 5, 16, 17, 1000])
@pytest.mark.parametrize("parts", range(1, 18))
def test_shares_are_adjacent_and_cover_everything(whole: int, parts: int) -> None:
    covered = [index for part in range(parts) for index in sources.share(whole, part, parts)]
    assert covered == list(range(whole))


def summary(pieces: list[Piece]) -> list[tuple[str, int, int, int]]:
    assert all(piece.modified_ns == piece.path.stat().st_mtime_ns for piece in pieces)
    assert all(piece.file_bytes == piece.path.stat().st_size for piece in pieces)
    return [(piece.path.name, piece.part, piece.parts, piece.bytes) for piece in pieces]


def test_plain_lines_and_parquet_are_cut_and_the_rest_is_not(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.parquet", "a.jsonl.gz", "a.jsonl.zst", "a.arrow"):
        (tmp_path / name).write_bytes(bytes(25))
    a, b = tmp_path / "a.jsonl", tmp_path / "a.parquet"
    assert summary(sources.pieces([a, b], piece_bytes=10)) == [
        (path.name, part, 3, size) for path in (a, b) for part, size in enumerate([8, 8, 9])
    ]
    whole = [a, b, tmp_path / "a.jsonl.gz", tmp_path / "a.jsonl.zst", tmp_path / "a.arrow"]
    assert summary(sources.pieces(whole, piece_bytes=25)) == [(path.name, 0, 1, 25) for path in whole]
    assert summary(sources.pieces(whole[2:], piece_bytes=10)) == [(path.name, 0, 1, 25) for path in whole[2:]]


def test_an_empty_file_is_one_piece(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    assert summary(sources.pieces([tmp_path / "a.jsonl"], piece_bytes=10)) == [("a.jsonl", 0, 1, 0)]


def test_of_a_curation_stage_only_what_it_kept_is_text(tmp_path: Path) -> None:
    """Its logs and rejects are JSON too; a user's own folders of these names are text."""
    for folder in ("stage/documents", "stage/rejects/language", "stage/logs/documents", "own/logs"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "00000.jsonl").write_text("{}\n")
    (tmp_path / "stage" / "stage.json").write_text("{}")
    found = [str(file.relative_to(tmp_path)) for file in sources.resolve([tmp_path])]
    assert found == ["own/logs/00000.jsonl", "stage/documents/00000.jsonl"]
