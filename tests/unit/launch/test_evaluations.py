"""What the command line makes of suites, files, templates and servers."""

from pathlib import Path
from typing import Any

import pytest

from megatron_octo.errors import ConfigError
from megatron_octo.evaluation.config import Engine, Evaluation, Source
from megatron_octo.launch import evaluations
from megatron_octo.servers import Server
from megatron_octo.templates import Template

SHOTS = Path("shots.jsonl")


@pytest.mark.parametrize(
    ("given", "file", "suites", "num_shots", "shots_file", "template"),
    [
        (None, None, ["gsm8k"], None, None, None),
        (None, None, ["gsm8k"], None, SHOTS, None),
        (None, None, ["gsm8k"], 0, None, None),
        (None, None, [], None, None, Template.SIMPLE),
        (None, None, [], 0, None, Template.SIMPLE),
        (None, None, [], 4, SHOTS, None),
        (Template.CHAT, None, ["gsm8k"], None, None, Template.CHAT),
        (None, Path("mine.txt"), ["gsm8k"], None, None, Template.FILE),
    ],
)
def test_a_template_is_the_default_of_questions_without_examples(
    given: Template | None, file: Path | None, suites: list[str], num_shots: int | None, shots_file: Path | None,
    template: Template | None,
) -> None:  # fmt: skip
    found = evaluations.template(given, file, suites=suites, num_shots=num_shots, shots_file=shots_file)
    assert found is template


def test_examples_that_nobody_is_shown_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"shots.jsonl with --template chat, which is zero-shot"):
        evaluations.template(Template.CHAT, None, suites=["gsm8k"], num_shots=None, shots_file=SHOTS)
    with pytest.raises(ConfigError, match=r"shots.jsonl without --num-shots N"):
        evaluations.template(None, None, suites=[], num_shots=None, shots_file=SHOTS)


def test_shots_of_the_user_s_own_are_for_every_benchmark(tmp_path: Path) -> None:
    for name in ("gsm8k.jsonl", "gsm8k.train.jsonl", "mine.jsonl", "shots.jsonl"):
        (tmp_path / name).touch()
    found = evaluations.sources(
        ["gsm8k"], datasets=[tmp_path / "mine.jsonl"], data=tmp_path, shots_file=tmp_path / "shots.jsonl"
    )
    assert found == (
        Source(name="gsm8k", file=tmp_path / "gsm8k.jsonl", shots_file=tmp_path / "shots.jsonl"),
        Source(name="mine", file=tmp_path / "mine.jsonl", shots_file=tmp_path / "shots.jsonl"),
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_p": 0.0, "temperature": 1.0}, "top_p 0; .* top_p above 0 and at most 1"),
        ({"temperature": -1.0}, "temperature is -1 .* 0 \\(greedy\\) or more"),
        ({"limit": 0}, "limit is 0; it must be at least 1"),
        ({"num_shots": -1}, "num_shots is -1"),
        ({"model": None}, "engine=transformers without a model; name the directory"),
        ({"engine": Engine.SERVER}, "engine=server with no server"),
        ({"server": Server(url="http://h/v1", model="m")}, "engine=transformers with the server http://h/v1"),
        ({"engine": Engine.SERVER, "server": Server(url="http://h/v1", model="m")}, "leave the directory out"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    asked: dict[str, Any] = {"model": Path("m"), "benchmarks": (Source(name="gsm8k"),), "template": None}
    with pytest.raises(ConfigError, match=message):
        Evaluation(max_new_tokens=8, **asked | settings)


def test_a_server_s_address_is_a_url() -> None:
    with pytest.raises(
        ConfigError, match=r"url is localhost:8000; it begins with http:// or https:// and ends as .* /v1"
    ):
        Server(url="localhost:8000", model="m")
