"""Prompts have one place for the document, and LaTeX goes through unharmed."""

from pathlib import Path

import pytest

from megatron_octo.curation.language_model import prompts
from megatron_octo.errors import ConfigError


@pytest.mark.parametrize("prompt", [prompts.ANNOTATE, prompts.REFINE])
def test_ours(prompt: str) -> None:
    assert prompt.count(prompts.PLACEHOLDER) == 1
    assert prompts.load(None, prompt) == prompt


def test_braces_are_text() -> None:
    assert prompts.fill("a {text} b", r"\frac{1}{2} {0}") == r"a \frac{1}{2} {0} b"


def test_a_users_own(tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("Judge: {text}", encoding="utf-8")
    assert prompts.load(file, prompts.ANNOTATE) == "Judge: {text}"


@pytest.mark.parametrize(
    ("text", "said"), [("no place", "0 times"), ("{text} {text}", "2 times"), (None, "cannot be read")]
)
def test_one_that_cannot_be_used(tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "prompt.txt"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        prompts.load(file, prompts.ANNOTATE)
