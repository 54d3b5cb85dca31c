import json
from pathlib import Path

import pytest

from megatron_octo import artifacts
from megatron_octo.curation import run as curate
from megatron_octo.curation import world
from megatron_octo.curation.config import CorpusSize, TinyWorld
from megatron_octo.errors import ConfigError, CorpusError


def config(*corpora: str) -> TinyWorld:
    sizes = tuple(CorpusSize(corpus=corpus, documents=20) for corpus in corpora)
    return TinyWorld(seed=3, corpora=sizes, rl_problems=10, test_problems=12)


def rows(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_writes_corpora_and_problems(tmp_path: Path) -> None:
    curate.run(config("web", "qa_long"), tmp_path / "world", False)
    mark = artifacts.finished(tmp_path / "world")
    assert mark["counts"] == {"web_documents": 20, "qa_long_documents": 20, "rl_problems": 10, "test_problems": 12}
    assert [row["text"] for row in rows(tmp_path / "world" / "web.jsonl")] == list(world.documents("web", 3, 20))
    assert len(rows(tmp_path / "world" / "rl.jsonl")) == 10
    assert {"question", "answer"} <= rows(tmp_path / "world" / "test.jsonl")[0].keys()


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        curate.run(config("web"), tmp_path / name, False)
    assert artifacts.finished(tmp_path / "a")["outputs"] == artifacts.finished(tmp_path / "b")["outputs"]


@pytest.mark.parametrize(
    ("corpora", "message"), [(("wbe",), r"no corpus 'wbe'; nearest: web"), (("web", "web"), "'web' is listed 2 times")]
)
def test_corpora_are_checked(tmp_path: Path, corpora: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        curate.run(config(*corpora), tmp_path / "world", False)


def test_a_leaked_test_question_stops_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leaked = next(world.problems(3, 1, "test")).question
    monkeypatch.setattr(world, "documents", lambda corpus, seed, count: iter(["clean", f"See {leaked}"]))
    with pytest.raises(CorpusError, match="document 2 of 'web' holds a test question"):
        curate.run(config("web"), tmp_path / "world", False)
    assert not (tmp_path / "world" / "web.jsonl").exists()
