"""A server that fails, a stage that is killed, a budget that ends: no answer is lost, none is paid twice."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_fault_server import FAULTS, MODEL, ChatFaultServer
from stage_of_pages import stage_of_pages

from megatron_octo import config, server_client
from megatron_octo.curation.config import LanguageModel, Refinement
from megatron_octo.curation.language_model import asking
from megatron_octo.curation.language_model.asking import Ask, Refused
from megatron_octo.curation.language_model.budget import BudgetSpent
from megatron_octo.errors import ConfigError, ResourceError
from megatron_octo.servers import Server

DRIVER = Path(__file__).with_name("asking_driver.py")
#: Of the client; far above what an answer takes on a busy machine.
PATIENCE_SECONDS = 4.0


def server_of(faulty: ChatFaultServer, concurrency: int = 8) -> Server:
    return Server(url=faulty.url, model=MODEL, concurrency=concurrency)


def asked(server: Server, prompts: list[str], cache: Path, *, max_tokens: int | None = None) -> list[str]:
    """Answers of the server to these prompts, or why it refuses them."""

    async def work(ask: Ask, prompt: str) -> str:
        try:
            return (await ask(prompt, max_new_tokens=16)).text
        except Refused as refusal:
            return f"refused: {refusal}"

    model = LanguageModel(server=server, max_tokens=max_tokens)
    return list(asking.each(iter(prompts), work, model=model, server=server, cache=cache))


def test_a_fifth_of_the_requests_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_client, "READ_SECONDS", PATIENCE_SECONDS)
    prompts = [f"question {number}" for number in range(300)]
    with ChatFaultServer(share=0.2, seed=3).running() as faulty:
        answers = asked(server_of(faulty, concurrency=32), prompts, tmp_path / "answers.jsonl")
        assert asked(server_of(faulty), prompts, tmp_path / "answers.jsonl") == answers
    assert answers == [f"echo: {prompt}" for prompt in prompts]
    assert faulty.faults.keys() == set(FAULTS)
    assert faulty.delivered == dict.fromkeys(prompts, 1)
    assert 0.15 < faulty.faults.total() / faulty.asked.total() < 0.25


def test_the_same_prompt_at_the_same_time_is_asked_once(tmp_path: Path) -> None:
    with ChatFaultServer(seconds=0.1).running() as faulty:
        assert asked(server_of(faulty), ["a", "b", "a", "a"], tmp_path / "answers.jsonl") == [
            "echo: a",
            "echo: b",
            "echo: a",
            "echo: a",
        ]
    assert faulty.asked == {"a": 1, "b": 1}


def test_another_attempt_is_another_question(tmp_path: Path) -> None:
    async def work(ask: Ask, prompt: str) -> list[str]:
        return [(await ask(prompt, max_new_tokens=16, attempt=attempt)).text for attempt in (0, 1, 1)]

    with ChatFaultServer().running() as faulty:
        server = server_of(faulty)
        model = LanguageModel(server=server, seed=7)
        list(asking.each(["a"], work, model=model, server=server, cache=tmp_path / "answers.jsonl"))
    assert [(request["seed"], request["temperature"]) for request in faulty.requests] == [(7, 0.0), (8, 0.3)]


def test_a_refusal_is_the_documents_and_the_others_go_on(tmp_path: Path) -> None:
    with ChatFaultServer().running() as faulty:
        answers = asked(server_of(faulty), ["a", "too long b", "c"], tmp_path / "answers.jsonl")
    assert [answers[0], answers[2]] == ["echo: a", "echo: c"]
    assert answers[1].startswith("refused: ")
    assert "the prompt is too long" in answers[1]


@pytest.mark.parametrize(("status", "said"), [(401, "refuses the key"), (404, "has no model 'echo'")])
def test_what_no_patience_mends_stops_at_once(tmp_path: Path, status: int, said: str) -> None:
    prompts = [f"question {number}" for number in range(50)]
    with ChatFaultServer(status=status).running() as faulty, pytest.raises(ConfigError, match=said):
        asked(server_of(faulty, concurrency=4), prompts, tmp_path / "answers.jsonl")
    assert faulty.asked.total() <= 8


def test_garbage_for_ever_ends_with_what_was_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "GARBAGE_PAUSES_SECONDS", (0.01, 0.01))
    monkeypatch.setattr("chat_fault_server.FAULTS", ("web page",))
    with (
        ChatFaultServer(share=1.0).running() as faulty,
        pytest.raises(ResourceError, match=r"3 times .*502 Bad Gateway"),
    ):
        asked(server_of(faulty), ["a"], tmp_path / "answers.jsonl")
    assert faulty.asked == {"a": 3}


def test_an_error_in_the_middle_keeps_what_is_answered(tmp_path: Path) -> None:
    async def work(ask: Ask, prompt: str) -> str:
        answer = await ask(prompt, max_new_tokens=16)
        if prompt == "d":
            raise ZeroDivisionError
        return answer.text

    with ChatFaultServer(seconds=0.05).running() as faulty:
        server, given = server_of(faulty, concurrency=2), []
        with pytest.raises(ZeroDivisionError):
            given.extend(  # one by one, as a stage takes them
                asking.each(
                    "abcdef", work, model=LanguageModel(server=server), server=server, cache=tmp_path / "answers.jsonl"
                )
            )
        asked(server, list("abcdef"), tmp_path / "answers.jsonl")
    assert faulty.asked == dict.fromkeys("abcdef", 1)


def test_items_are_read_as_they_are_needed(tmp_path: Path) -> None:
    read = 0

    def prompts() -> Iterator[str]:
        nonlocal read
        for read in range(1000):
            yield f"question {read}"

    async def work(ask: Ask, prompt: str) -> str:
        return (await ask(prompt, max_new_tokens=16)).text

    with ChatFaultServer().running() as faulty:
        server = server_of(faulty, concurrency=2)
        results = asking.each(
            prompts(), work, model=LanguageModel(server=server), server=server, cache=tmp_path / "answers.jsonl"
        )
        with contextlib.closing(results):
            assert next(results) == "echo: question 0"
    assert read <= 16


@contextlib.contextmanager
def driven(
    faulty: ChatFaultServer, cache: Path, out: Path, max_tokens: int | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    budget = [] if max_tokens is None else [str(max_tokens)]
    child = subprocess.Popen([sys.executable, str(DRIVER), faulty.url, str(cache), str(out), "40", *budget])
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def keys(cache: Path) -> list[str]:
    lines = cache.read_bytes().split(b"\n")[:-1] if cache.exists() else []
    return [json.loads(line)["key"] for line in lines]


def wait_for_answers(cache: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(keys(cache)) < count:
        assert time.monotonic() < deadline, f"{len(keys(cache))} of {count} answers"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_stage_asks_no_finished_answer_again(tmp_path: Path, number: signal.Signals) -> None:
    cache, out = tmp_path / "answers" / "0.jsonl", tmp_path / "out.txt"
    with ChatFaultServer(seconds=0.1).running() as faulty:
        for answers in (10, 40):
            with driven(faulty, cache, out) as child:
                wait_for_answers(cache, answers)
                child.send_signal(number)
                child.wait(30)
            assert not out.exists()
        known = len(keys(cache))
        asked_by_then = faulty.asked.total()
        with driven(faulty, cache, out) as child:
            assert child.wait(60) == 0
    assert out.read_text().splitlines() == [f"echo: about echo: question {number}" for number in range(40)]
    assert len(keys(cache)) == len(set(keys(cache))) == 80
    assert faulty.asked.total() - asked_by_then == 80 - known
    if number == signal.SIGTERM:  # what was under way was awaited
        assert set(faulty.asked.values()) == {1}
    else:  # four requests were under way each time
        assert 80 <= faulty.asked.total() <= 88


def test_a_budget_is_hard_and_a_higher_one_goes_on(tmp_path: Path) -> None:
    prompts = [f"question {number}" for number in range(100)]  # 5 tokens each, with the answer
    with ChatFaultServer().running() as faulty:
        with pytest.raises(BudgetSpent, match=r"max_tokens=400 .* higher max_tokens"):
            asked(server_of(faulty), prompts, tmp_path / "answers.jsonl", max_tokens=400)
        used = 5 * len(keys(tmp_path / "answers.jsonl"))
        assert 200 < used <= 400
        assert 5 * faulty.asked.total() == used
        with pytest.raises(BudgetSpent):
            asked(server_of(faulty), prompts, tmp_path / "answers.jsonl", max_tokens=400)
        assert 5 * faulty.asked.total() <= 400
        answers = asked(server_of(faulty), prompts, tmp_path / "answers.jsonl", max_tokens=1000)
    assert answers == [f"echo: {prompt}" for prompt in prompts]
    assert faulty.asked == dict.fromkeys(prompts, 1)


@pytest.mark.slow
def test_a_budget_is_that_of_all_processes(tmp_path: Path) -> None:
    def ends(faulty: ChatFaultServer, max_tokens: int) -> list[int]:
        with contextlib.ExitStack() as all_of_them:
            children = [
                all_of_them.enter_context(
                    driven(faulty, tmp_path / "answers" / f"{part}.jsonl", tmp_path / f"{part}.txt", max_tokens)
                )
                for part in range(3)
            ]
            return [child.wait(120) for child in children]

    with ChatFaultServer(seconds=0.02).running() as faulty:
        # A question and its answer are 5 tokens, the one about it 9: 560 per process, which all ask the same.
        assert 2 in ends(faulty, 1200)
        assert 600 < sum(len(prompt.split()) * 2 + 1 for prompt in faulty.delivered.elements()) <= 1200
        assert ends(faulty, 3000) == [0, 0, 0]
    assert set(faulty.asked.values()) == {3}
    assert (tmp_path / "0.txt").read_bytes() == (tmp_path / "2.txt").read_bytes()


@pytest.mark.slow
def test_workers_of_a_stage_keep_what_is_under_way(tmp_path: Path) -> None:
    """SIGTERM reaches the stage; its workers are two processes further on."""
    pages = stage_of_pages(tmp_path / "documents", 60)
    out = tmp_path / "out"
    caches = [out / "logs" / "answers" / f"0000{part}.jsonl" for part in range(2)]
    with ChatFaultServer(seconds=0.5).running() as faulty:
        model = LanguageModel(server=server_of(faulty))
        asked = Refinement(documents=pages, parts=2, workers=2, language=None, model=model)
        (tmp_path / "config.json").write_text(config.dumps(asked))
        command = [
            sys.executable,
            "-m",
            "megatron_octo.curation.refinement.refining_run",
            str(tmp_path / "config.json"),
            str(out),
        ]
        with subprocess.Popen(command) as stage:
            for cache in caches:
                wait_for_answers(cache, 6)
            stage.terminate()
        assert stage.returncode == 130
        assert sum(len(keys(cache)) for cache in caches) == faulty.asked.total() < 60
        assert subprocess.run(command).returncode == 0
    every = [key for cache in caches for key in keys(cache)]
    assert len(every) == len(set(every)) == faulty.asked.total()
