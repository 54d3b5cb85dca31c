"""What is wrong with a curation is found before it begins, all of it at once."""

import dataclasses
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import raw_corpora

from megatron_octo import artifacts, recipes
from megatron_octo.curation import preflight, preflight_checks
from megatron_octo.curation.config import Curation, Language, LanguageModel, Reading
from megatron_octo.curation.preflight import Finding
from megatron_octo.errors import CorpusError
from megatron_octo.evaluation import loading
from megatron_octo.evaluation.config import Source
from megatron_octo.servers import Server

QUESTIONS = {"question": "How many legs have three spiders and one fly together?", "answer": "30"}


def tiny(**changes: object) -> Curation:
    return dataclasses.replace(recipes.load("tiny.curation"), **changes)


def of_rows(*inputs: Path, **changes: object) -> Curation:
    return tiny(web=None, reading=Reading(inputs=inputs, parts=2, **changes))  # type: ignore[arg-type]


def found(curation: Curation, *steps: str, out: Path = Path("out"), elsewhere: bool = False) -> dict[str, Finding]:
    modules = dict.fromkeys(steps, "json")
    return {each.what: each for each in preflight.examine(curation, out=out, steps=modules, elsewhere=elsewhere)}


@pytest.fixture
def closed() -> Iterator[Server]:
    """A server that is not there: nobody else gets the port meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield Server(url=f"http://127.0.0.1:{held.getsockname()[1]}/v1", model="m")


def test_a_generated_web_and_a_stand_in_need_nothing() -> None:
    checks = found(tiny(), "web", "documents", "annotations", "unique", "refined")
    assert {check.state for check in checks.values()} == {"ok"}
    assert list(checks) == [
        "packages", "reading language", "annotation model", "refinement model", "refinement language", "disk",
    ]  # fmt: skip


def test_a_package_that_is_missing_is_named() -> None:
    checks = preflight.examine(tiny(), out=Path("out"), steps={"web": "no_such_package.run"}, elsewhere=False)
    assert (checks[0].what, checks[0].state, checks[0].text) == (
        "packages",
        "fail",
        "No module named 'no_such_package'",
    )


@pytest.mark.parametrize(
    ("name", "row", "changes", "state", "said"),
    [
        ("a.jsonl", {"text": "a"}, {}, "ok", "1 file, 14 B"),
        ("a.parquet", {"text": "a"}, {}, "ok", "1 file"),
        ("a.jsonl", {"txt": "a"}, {}, "fail", r"none of the first 1 row of .*a\.jsonl has 'text' \(present: txt\)"),
        ("a.jsonl", {"body": {"text": "a"}}, {"text_field": "body.text"}, "ok", "1 file"),
        ("a.jsonl", {"text": "a"}, {"id_field": "url"}, "fail", r"has 'url' \(present: text\)"),
        ("a.txt", {"text": "a"}, {}, "fail", "unknown kind of corpus file"),
    ],
)
def test_inputs(
    tmp_path: Path, name: str, row: dict[str, object], changes: dict[str, object], state: str, said: str
) -> None:
    file = raw_corpora.write(tmp_path / name, [row])
    check = found(of_rows(file, **changes), "documents", out=tmp_path / "out")["inputs"]
    assert check.state == state
    assert re.search(said, check.text)


def test_inputs_that_are_not_there_or_hold_the_output(tmp_path: Path) -> None:
    assert "no such file" in found(of_rows(tmp_path / "nowhere"), "documents")["inputs"].text
    raw_corpora.write(tmp_path / "a.jsonl", [{"text": "a"}])
    inside = found(of_rows(tmp_path), "documents", out=tmp_path / "out")["inputs"]
    assert (inside.state, "lies in the input directory" in inside.text) == ("fail", True)


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ('{"text": ""}\n{"txt": "a"}\nno row\n', "ok"),
        ("", "ok"),
        ('[\n{"text": "a"},\n', "fail"),  # a JSON file that is no JSONL
    ],
)
def test_only_what_no_row_can_mend_is_a_reason_to_stop(tmp_path: Path, text: str, state: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    assert found(of_rows(tmp_path / "a.jsonl"), "documents", out=tmp_path / "out")["inputs"].state == state


def test_a_file_without_rows_before_the_others_is_worth_a_warning(tmp_path: Path) -> None:
    raw_corpora.write(tmp_path / "a.jsonl", [{"files": 1}])
    raw_corpora.write(tmp_path / "b.jsonl", [{"text": "a"}])
    check = found(of_rows(tmp_path), "documents")["inputs"]
    assert (check.state, "a.jsonl has 'text' (present: files); such rows are kept aside" in check.text) == (
        "warn",
        True,
    )


def test_a_damaged_file_is_worth_a_warning(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(b"no gzip")
    check = found(of_rows(tmp_path / "a.jsonl.gz"), "documents", out=tmp_path / "out")["inputs"]
    assert (check.state, "is damaged" in check.text) == ("warn", True)


def test_archives_have_no_rows_to_look_at(tmp_path: Path) -> None:
    file = raw_corpora.archive(tmp_path / "a.warc.gz", [raw_corpora.record(b"<p>a</p>")])
    assert found(of_rows(file), "documents")["inputs"].state == "ok"


def test_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = raw_corpora.write(tmp_path / "a.jsonl", [{"text": "a" * 985}])  # 1,000 bytes with its braces
    for free, state in ((3_000, "ok"), (2_000, "warn"), (40, "fail")):
        monkeypatch.setattr(artifacts, "free_bytes", lambda directory, free=free: free)
        assert found(of_rows(file), "documents", out=tmp_path / "out")["disk"].state == state


def test_a_server_that_is_not_there(closed: Server) -> None:
    annotation = dataclasses.replace(tiny().annotation, model=LanguageModel(server=closed))
    check = found(tiny(annotation=annotation), "annotations")["annotation model"]
    assert (check.state, check.remedy) == (
        "fail", "start it, or set annotation.model.server.url and annotation.model.server.model",
    )  # fmt: skip
    assert "does not answer" in check.text


def test_nodes_may_reach_a_server_that_a_login_node_does_not(closed: Server) -> None:
    """But not one whose address is their own."""
    for url, state in ((closed.url, "fail"), ("http://no.such.host.invalid:8000/v1", "warn")):
        model = LanguageModel(server=dataclasses.replace(closed, url=url))
        annotation = dataclasses.replace(tiny().annotation, model=model)
        check = found(tiny(annotation=annotation), "annotations", elsewhere=True)["annotation model"]
        assert check.state == state


@pytest.mark.parametrize(("elsewhere", "state"), [(False, "fail"), (True, "warn")])
def test_a_job_may_have_a_key_that_a_login_node_lacks(elsewhere: bool, state: str) -> None:
    body = b'{"error": {"message": "who are you?"}}'
    said = b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer_once, args=(listener, said), daemon=True).start()
        # An address of this machine that is not `localhost`, which a job would look for on its own node.
        server = Server(url=f"http://127.1:{listener.getsockname()[1]}/v1", model="m")
        annotation = dataclasses.replace(tiny().annotation, model=LanguageModel(server=server))
        check = found(tiny(annotation=annotation), "annotations", elsewhere=elsewhere)["annotation model"]
    assert (check.state, "refuses the key" in check.text) == (state, True)


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight_checks, "SERVER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = Server(url=f"http://127.0.0.1:{silent.getsockname()[1]}/v1", model="m")
        annotation = dataclasses.replace(tiny().annotation, model=LanguageModel(server=server))
        check = found(tiny(annotation=annotation), "annotations")["annotation model"]
    assert (check.state, "says nothing" in check.text) == ("fail", True)


def test_a_prompt_without_a_place_for_the_document(tmp_path: Path) -> None:
    prompt = tmp_path / "mine.txt"
    prompt.write_text("Score this page.")
    annotation = dataclasses.replace(tiny().annotation, prompt_file=prompt)
    check = found(tiny(annotation=annotation), "annotations")["annotation prompt"]
    assert (check.state, "has {text} in it 0 times" in check.text) == ("fail", True)


def test_benchmarks_are_read(tmp_path: Path) -> None:
    good = raw_corpora.write(tmp_path / "mine.jsonl", [QUESTIONS] * 2)
    sources = (Source(name="mine", file=good), Source(name="lost", file=tmp_path / "lost.jsonl"))
    unique = tiny().unique
    checked = found(tiny(unique=dataclasses.replace(unique, benchmarks=sources[:1])), "unique")["benchmarks"]
    assert (checked.state, checked.text) == ("ok", "2 questions of 1 benchmark")
    checked = found(tiny(unique=dataclasses.replace(unique, benchmarks=sources)), "unique")["benchmarks"]
    assert checked.state == "fail"
    assert checked.text.startswith("lost cannot be read; the first: cannot read")


def test_a_hub_that_is_not_reached_is_asked_once(closed: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", closed.url)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    preflight._do_not_wait_for_the_hub()
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_a_hub_that_answers_is_asked_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hub:
        threading.Thread(target=answer_once, args=(hub,), daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.getsockname()[1]}")
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        preflight._do_not_wait_for_the_hub()
    assert os.environ["HF_HUB_OFFLINE"] == "0"


NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


def answer_once(listener: socket.socket, said: bytes = NOT_FOUND) -> None:
    """As a hub that has no such page: it is there."""
    connection, _ = listener.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(said)


@pytest.mark.parametrize(("elsewhere", "state"), [(False, "fail"), (True, "warn")])
def test_a_job_may_reach_the_hub_or_have_its_files(
    elsewhere: bool, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreached(source: Source) -> list[object]:
        raise CorpusError("cannot take the questions")

    monkeypatch.setattr(loading, "questions", unreached)
    of_hub, of_file = Source(name="gsm8k"), Source(name="mine", file=tmp_path / "gone.jsonl")
    for sources, seen in (((of_hub,), state), ((of_hub, of_file), "fail")):
        unique = dataclasses.replace(tiny().unique, benchmarks=sources)
        assert found(tiny(unique=unique), "unique", elsewhere=elsewhere)["benchmarks"].state == seen


def test_a_set_of_another_size_than_published_is_worth_a_warning(tmp_path: Path) -> None:
    file = raw_corpora.write(tmp_path / "gsm8k.jsonl", [QUESTIONS])
    unique = dataclasses.replace(tiny().unique, benchmarks=(Source(name="gsm8k", file=file),))
    checked = found(tiny(unique=unique), "unique")["benchmarks"]
    assert (checked.state, "1,319 in published results" in checked.text) == ("warn", True)


def test_without_benchmarks_own_documents_keep_their_questions(tmp_path: Path) -> None:
    assert found(of_rows(tmp_path), "unique")["benchmarks"].state == "warn"


def test_a_language_model_of_the_second_look(tmp_path: Path) -> None:
    refinement = dataclasses.replace(tiny().refinement, language=Language(model=tmp_path / "gone.bin"))  # type: ignore[type-var]
    assert found(tiny(refinement=refinement), "refined")["refinement language"].state == "fail"
