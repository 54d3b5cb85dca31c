"""Prompts as base models saw them in training, and where a response stops."""

import pytest

from megatron_octo.templates import Template, before_stop, render


def test_simple_is_the_beginning_of_a_document() -> None:
    assert render(Template.SIMPLE, "1+1") == "Question: 1+1\nAnswer:"


def test_structured_keeps_the_box_and_ends_with_the_assistant() -> None:
    prompt = render(Template.STRUCTURED, "What is {x}?")
    assert r"\boxed{}" in prompt
    assert prompt.endswith("\nWhat is {x}?\nAssistant:")


@pytest.mark.parametrize(
    ("text", "kept"),
    [("4\nQuestion: 5", "4\n"), ("User: hi", ""), ("4", "4"), ("a Answer: b User: c", "a ")],
)
def test_a_response_ends_before_the_next_turn(text: str, kept: str) -> None:
    assert before_stop(text) == kept
