"""A whole curation of the tiny web: killed on the way it makes what an unbroken run makes, asks nothing twice, and finds what was planted."""

import dataclasses
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from chat_server import ChatServer
from tiny_curation import STEPS, command, counts, environment, kill_tree, made, metadata, planted, wait_until

from megatron_octo.artifacts import is_done

pytestmark = pytest.mark.slow

#: Small enough for every day.
DOCUMENTS, SAMPLE = 1_500, 400
MANY, MANY_SAMPLE = 20_000, 2_000
WORKERS = 2
#: Longer than a client needs to put an answer on disk.
SETTLE_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished curation."""

    out: Path
    files: dict[str, str]
    counts: dict[str, object]
    delivered: Counter[str]
    seconds: float


class Curating:
    """Runs one curation in one place, as often as it is killed, and puts it aside when it is done.

    All runs are made under the same path: a data set card and a config name theirs.
    """

    def __init__(self, place: Path, documents: int, sample: int) -> None:
        self.out = place / "run"
        self._words = (f"web.documents={documents}", f"annotation.sample={sample}", "--workers", WORKERS)
        self._log = place / "log"

    def start(self, chat: ChatServer) -> "subprocess.Popen[bytes]":
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command(self.out, *self._words), env=environment(chat.url), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def finish(self, chat: ChatServer, *, name: str, started: float) -> Run:
        """Let it run to its end and put it aside."""
        running = self.start(chat)
        try:
            code = running.wait(900)
        finally:
            kill_tree(running)
        assert code == 0, self._log.read_text()[-4000:]
        seconds = time.monotonic() - started
        aside = self.out.rename(self.out.with_name(name))
        return Run(aside, made(aside), dict(counts(aside)), chat.delivered, seconds)

    def kill_when(self, chat: ChatServer, reached: Callable[[], bool]) -> None:
        """Begin or go on, and kill it then. The server falls silent first, so that no answer is lost that it gave."""
        running = self.start(chat)
        try:
            wait_until(reached, running, seconds=600)
            with chat.holding():
                time.sleep(SETTLE_SECONDS)
                kill_tree(running)
        finally:
            kill_tree(running)


def under_way(stage: Path) -> bool:
    """Its directory is there, and not done."""
    return (stage / "stage.json").exists() and not is_done(stage)


def parts_made(stage: Path) -> int:
    return len(list(stage.glob("logs/*/completions/*")))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Run]]:
    place = tmp_path_factory.mktemp("curation")
    with ChatServer().running() as chat:
        yield place, Curating(place, DOCUMENTS, SAMPLE).finish(chat, name="unbroken", started=time.monotonic())


def test_killed_in_every_step_it_makes_the_same(unbroken: tuple[Path, Run]) -> None:
    place, expected = unbroken
    curating = Curating(place, DOCUMENTS, SAMPLE)
    with ChatServer().running() as chat:
        for step in STEPS:
            curating.kill_when(chat, lambda step=step: under_way(curating.out / step))  # type: ignore[misc]
        same(curating.finish(chat, name="broken", started=time.monotonic()), expected)


def test_twenty_thousand_documents_in_ten_minutes(tmp_path: Path) -> None:
    """Killed three times: while documents are read, while some are scored, and while they are rewritten."""
    curating = Curating(tmp_path, MANY, MANY_SAMPLE)
    with ChatServer().running() as chat:
        expected = curating.finish(chat, name="unbroken", started=time.monotonic())
    with ChatServer().running() as chat:
        started = time.monotonic()
        curating.kill_when(chat, lambda: parts_made(curating.out / "documents") >= 3)
        curating.kill_when(chat, lambda: chat.delivered.total() >= MANY_SAMPLE // 3)
        curating.kill_when(chat, lambda: chat.delivered.total() >= MANY_SAMPLE + 1_000)
        broken = curating.finish(chat, name="broken", started=started)
    same(broken, expected)
    print(f"unbroken {expected.seconds:.0f} s, killed three times {broken.seconds:.0f} s")
    assert broken.seconds < 600


def same(broken: Run, expected: Run) -> None:
    assert {path for path in broken.files if broken.files[path] != expected.files.get(path)} == set()
    assert broken.files == expected.files
    assert broken.counts == expected.counts
    assert broken.delivered == expected.delivered
    assert set(broken.delivered.values()) == {1}


def test_no_page_in_another_language_is_left(unbroken: tuple[Path, Run]) -> None:
    out = unbroken[1].out
    foreign, kept = set(planted(out)["foreign"]), {row["url"] for row in metadata(out / "documents")}
    assert len(foreign) > 100
    assert not foreign & kept
    assert len(kept) > DOCUMENTS * 0.8


def test_no_copy_is_left_beside_its_original(unbroken: tuple[Path, Run]) -> None:
    out = unbroken[1].out
    relevant, unique = ({row["url"] for row in metadata(out / step)} for step in ("relevant", "unique"))
    pairs = [{copy, original} for copy, original in planted(out)["original_of"].items() if {copy, original} <= relevant]
    assert len(pairs) > 40
    # Near copies have a Jaccard similarity of 0.9 and more, of which MinHash finds 99 %.
    assert sum(pair <= unique for pair in pairs) <= len(pairs) // 50


def test_no_benchmark_question_is_left(unbroken: tuple[Path, Run]) -> None:
    out = unbroken[1].out
    quoting = set(planted(out)["question"])
    relevant, unique = ({row["url"] for row in metadata(out / step)} for step in ("relevant", "unique"))
    assert len(quoting & relevant) >= 45
    assert not quoting & unique


def test_what_was_not_planted_stays(unbroken: tuple[Path, Run]) -> None:
    out = unbroken[1].out
    listed = planted(out)
    originals = set(listed["mathematics"]) - set(listed["original_of"].values())
    relevant, unique = ({row["url"] for row in metadata(out / step)} for step in ("relevant", "unique"))
    assert len(originals & relevant) > 0.9 * len(originals)
    assert len(originals & relevant - unique) <= 0.01 * len(originals)
    # What the classifier lets through is mathematics.
    assert len(set(listed["documentation"]) & unique) < 0.1 * len(unique)


def test_the_corpus_is_mathematics_without_what_surrounded_it(unbroken: tuple[Path, Run]) -> None:
    table = pq.read_table(unbroken[1].out / "corpus" / "data")
    texts = table.column("text").to_pylist()
    assert len(texts) > DOCUMENTS * 0.25
    assert not [text for text in texts if "newsletter" in text or "Log in to leave a comment" in text]
    assert sum(r"\frac" in text for text in texts) > len(texts) * 0.5
