"""The engines: transformers on a tiny model, the server's client against a fault injector, vLLM where it is missing.

The real vLLM, offline and as a server, is in tests/openrlhf/test_eval_vllm.py.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fault_server
import pytest
import tiny_llama
import torch
from fault_server import FaultServer

from megatron_octo import generation, server_client
from megatron_octo.errors import ConfigError, ResourceError
from megatron_octo.evaluation import engines
from megatron_octo.evaluation.completions import Completion, Sampling
from megatron_octo.evaluation.config import Engine, Evaluation, Source
from megatron_octo.evaluation.server_engine import ServerCompleter
from megatron_octo.evaluation.transformers_engine import TransformersCompleter
from megatron_octo.servers import Server
from megatron_octo.templates import Template

#: Of many lengths; some end after a few tokens, at EOS or at a stop string, the others run to the cap.
PROMPTS = ["Ask: 2", "Ask", "Ask: 1. ", "Ask: 2. Answer", "A", "Ask: 1. Say", "Ask: 2. Ans", "As", "Ask: 1. Sa"]


def sampling(**changes: object) -> Sampling:
    settings: dict = {"max_new_tokens": 24, "temperature": 0.0, "top_p": 1.0, "stop_strings": ("Question:",), "seed": 5}
    return Sampling(**(settings | changes))


def completed(completer: engines.Completer, how: Sampling, done: tuple[int, ...] = ()) -> dict[int, Completion]:
    batches = list(completer.complete(PROMPTS, how, done=done))
    assert all(batches)
    pairs = [pair for batch in batches for pair in batch]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    documents = ["Ask: 1. Say: one. Question: 9", "Ask: 2. Answer two and then  "]
    return tiny_llama.make(tmp_path_factory.mktemp("model"), documents, steps=150)


def test_a_batch_with_a_long_tail_gives_what_each_prompt_gives_alone(model: Path) -> None:
    together = completed(TransformersCompleter(model, batch_size=4), sampling())
    loaded = generation.load_model(model, torch.float32), generation.load_tokenizer(model)
    for place, prompt in enumerate(PROMPTS):
        (alone,) = generation.generate(*loaded, [prompt], max_new_tokens=24, stop_strings=("Question:",))
        assert together[place] == Completion(
            text=alone.text, num_tokens=len(alone.token_ids), finished=alone.finished
        )  # fmt: skip
    lengths = {completion.num_tokens for completion in together.values()}
    assert {completion.finished for completion in together.values()} == {True, False}
    assert len(lengths) >= 4


@pytest.mark.parametrize("temperature", [0.0, 2.0])
@pytest.mark.parametrize("done", [(4,), (1, 7, 4, 0), tuple(range(1, 9))])
def test_what_is_done_changes_nothing_in_the_rest(model: Path, temperature: float, done: tuple[int, ...]) -> None:
    completer = TransformersCompleter(model, batch_size=4)
    unbroken = completed(completer, sampling(temperature=temperature))
    rest = completed(completer, sampling(temperature=temperature), done=done)
    assert rest == {place: unbroken[place] for place in unbroken if place not in done}


def test_samples_differ_by_seed_and_place(model: Path) -> None:
    completer = TransformersCompleter(model, batch_size=2)
    prompts = ["Ask: 1. Say"] * 6

    def texts(seed: int) -> list[str]:
        batches = completer.complete(prompts, sampling(temperature=3.0, seed=seed), done=())
        return [completion.text for batch in batches for _, completion in batch]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)
    assert len(set(texts(1))) == 6


@pytest.mark.parametrize(
    ("longest_prompt", "max_new_tokens", "message"),
    [
        (14, 115, r"14 tokens, which with max_new_tokens=115 .* 128 positions; set max_new_tokens to at most 114"),
        (4064, 16, r"4,064 tokens.*; take fewer shots"),
    ],
)
def test_a_response_that_could_leave_the_models_positions_is_refused(
    model: Path, longest_prompt: int, max_new_tokens: int, message: str
) -> None:
    completer = TransformersCompleter(model, batch_size=2)
    asked = completer.complete(["Q", "x" * longest_prompt], sampling(max_new_tokens=max_new_tokens), done=())
    with pytest.raises(ConfigError, match=message):
        next(asked)


def test_a_batch_that_does_not_fit_says_what_to_do(model: Path) -> None:
    class Full(torch.nn.Module):
        def forward(self, *_: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

    completer = TransformersCompleter(model, batch_size=8)
    completer._model.model.layers[1].register_forward_pre_hook(Full())
    with pytest.raises(ResourceError, match=r"8 responses at a time do not fit.*smaller batch_size"):
        completed(completer, sampling())


def test_vllm_that_is_missing_says_what_to_install(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # makes its import fail
    monkeypatch.delitem(sys.modules, "megatron_octo.evaluation.vllm_engine", raising=False)
    config = Evaluation(
        model=model, engine=Engine.VLLM, benchmarks=(Source(name="x"),), template=Template.SIMPLE, max_new_tokens=8
    )
    with pytest.raises(ResourceError, match="pip install vllm"):
        engines.completer(config)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer().running() as running:
        yield running


def asking(server: FaultServer, **changes: object) -> ServerCompleter:
    settings: dict = {"url": server.url, "model": "echo", "concurrency": 4}
    return ServerCompleter(Server(**(settings | changes)))


def test_a_server_is_asked_in_full(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    how = sampling(temperature=0.5, top_p=0.9, stop_strings=("Question:", "\n\n"))
    answers = completed(asking(server), how, done=tuple(range(1, len(PROMPTS))))
    assert answers == {0: Completion(text=" 2", num_tokens=1, finished=True)}
    (asked,) = server.asked
    seed = asked.pop("seed")
    assert 0 <= seed < 2**31
    assert asked == {
        "model": "echo", "prompt": "Ask: 2", "max_tokens": 24, "temperature": 0.5, "top_p": 0.9,
        "stop": ["Question:", "\n\n"],
    }  # fmt: skip
    assert server.keys == {"Bearer sesame"}


def test_the_cap_and_the_concurrency(server: FaultServer) -> None:
    server.seconds = 0.1
    completer = asking(server, concurrency=3)
    answers = dict(
        pair for batch in completer.complete(["be long"] + ["short"] * 8, sampling(), done=()) for pair in batch
    )
    assert [answers[place].finished for place in range(9)] == [False] + [True] * 8
    assert server.most_at_once == 3
    assert len({asked["seed"] for asked in server.asked}) == 9


@pytest.mark.parametrize("fault", [429, 500, 503, fault_server.CUT, fault_server.CUT_BODY])
def test_a_fault_is_tried_again(server: FaultServer, fault: int | str) -> None:
    server.fault = lambda number: fault if number in (0, 3) else None
    answers = completed(asking(server), sampling())
    assert sorted(answers) == list(range(len(PROMPTS)))
    assert answers[3].text == " Answer"
    assert len(server.asked) == len(PROMPTS) + 2


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"url": "http://127.0.0.1:9/v1"}, 200, "does not answer"),
        ({"model": "parrot"}, 200, "has no model 'parrot'; it has echo"),
        ({}, 401, r"refuses the key.*OPENAI_API_KEY"),
        ({}, 404, "its URL ends in /v1"),
        ({}, 500, r"does not answer.*told"),
    ],
)
def test_a_server_that_cannot_do_it_is_known_at_once(
    server: FaultServer, changes: dict, status: int, message: str
) -> None:
    server.models_status = status
    started = time.monotonic()
    with pytest.raises((ConfigError, ResourceError), match=message):
        asking(server, **changes)
    assert time.monotonic() - started < 3
    assert server.asked == []


def test_a_web_server_is_no_server_of_models(server: FaultServer) -> None:
    with pytest.raises(ConfigError, match=r"no list of models.*in /v1"):
        asking(server, url=server.url.removesuffix("/v1"))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (400, r"refuses a request.*told to say 400"),
        (500, r"does not answer.*told to say 500.*what is done is kept"),
        (fault_server.CUT, r"does not answer.*disconnected"),
    ],
)
def test_what_was_done_comes_before_the_error(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, fault: int | str, message: str
) -> None:
    monkeypatch.setattr(server_client, "MAX_RETRIES", 1)
    server.fault = lambda number: fault if number >= 6 else None
    answers: dict[int, Completion] = {}
    started = time.monotonic()

    def ask() -> None:
        for batch in asking(server, concurrency=2).complete(PROMPTS, sampling(), done=()):
            answers.update(batch)

    with pytest.raises((ConfigError, ResourceError), match=message):
        ask()
    assert time.monotonic() - started < 3
    assert sorted(answers) == [0, 1, 2, 3, 4, 5]
