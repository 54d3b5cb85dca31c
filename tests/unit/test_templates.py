"""Prompts as base models saw them in training, a user's own template, and where a response stops."""

from pathlib import Path

import pytest

from megatron_octo.errors import ConfigError
from megatron_octo.templates import STOP_STRINGS, Template, before_stop, check_stop_strings, load, render


def prompt(template: Template, question: str) -> str:
    return render(load(template, None), question)


def test_simple_is_the_beginning_of_a_document() -> None:
    assert prompt(Template.SIMPLE, "1+1") == "Question: 1+1\nAnswer:"


def test_chat_is_a_turn() -> None:
    assert prompt(Template.CHAT, "1+1") == "User: 1+1\nAssistant:"


def test_structured_keeps_the_box_and_ends_with_the_assistant() -> None:
    structured = prompt(Template.STRUCTURED, "What is {x}?")
    assert r"\boxed{}" in structured
    assert structured.endswith("\nWhat is {x}?\nAssistant:")


@pytest.mark.parametrize("question", ["{x}", "{question}", "{{}}", r"\boxed{}", "{0}", r"\1"])
def test_a_question_is_put_in_as_it_is(question: str) -> None:
    assert prompt(Template.SIMPLE, question) == f"Question: {question}\nAnswer:"


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (b"Box it in \\boxed{}, {not} {0} {{}}.\n{question}\n", "Box it in \\boxed{}, {not} {0} {{}}.\n7\n"),
        (b"{question}", "7"),
        (b"Q: {question}\r\nA:", "Q: 7\r\nA:"),
        ("\u95ee\u9898: {question}".encode(), "\u95ee\u9898: 7"),
        (b"\xef\xbb\xbfQ: {question}", "Q: 7"),  # a byte-order mark
    ],
)
def test_a_file_is_taken_as_it_is(tmp_path: Path, written: bytes, text: str) -> None:
    file = tmp_path / "mine.txt"
    file.write_bytes(written)
    assert render(load(Template.FILE, file), "7") == text


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (b"Q: {Question}", "has {question} 0 times; it needs it exactly once"),
        (b"", "0 times"),
        (b"{question} {question}", "has {question} 2 times"),
        (b"\xff{question}", "mine.txt: .*it must be UTF-8 text"),
    ],
)
def test_a_file_that_is_no_template(tmp_path: Path, written: bytes, message: str) -> None:
    file = tmp_path / "mine.txt"
    file.write_bytes(written)
    with pytest.raises(ConfigError, match=message):
        load(Template.FILE, file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the template in .*absent\.txt"):
        load(Template.FILE, tmp_path / "absent.txt")


@pytest.mark.parametrize(("template", "file"), [(Template.SIMPLE, Path("mine.txt")), (Template.FILE, None)])
def test_a_file_goes_with_its_template(template: Template, file: Path | None) -> None:
    with pytest.raises(ConfigError, match="name a file with template=file, and only with it"):
        load(template, file)


@pytest.mark.parametrize(
    ("text", "kept"),
    [("4\nQuestion: 5", "4\n"), ("User: hi", ""), ("4", "4"), ("a Answer: b User: c", "a ")],
)
def test_a_response_ends_before_the_next_turn(text: str, kept: str) -> None:
    assert before_stop(text, STOP_STRINGS) == kept


@pytest.mark.parametrize(
    ("stop_strings", "kept"),
    [((), "one Question: two###three"), (("###",), "one Question: two"), (("###", "two"), "one Question: ")],
)
def test_the_stop_strings_are_the_given_ones(stop_strings: tuple[str, ...], kept: str) -> None:
    assert before_stop("one Question: two###three", stop_strings) == kept


def test_an_empty_stop_string_is_refused() -> None:
    check_stop_strings(())
    with pytest.raises(ConfigError, match="an empty one, which would end every response at once"):
        check_stop_strings(("User:", ""))
