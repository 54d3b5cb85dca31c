r"""Prompts for base models: the text around a question, and the strings that end a response. RL and evaluation share them."""

import enum
from collections.abc import Sequence
from pathlib import Path

from megatron_octo.errors import ConfigError


class Template(enum.Enum):
    """Prompt templates for base models."""

    #: The paper writes `Question:{}\nAnswer:{}`; we add the space of our documents, so that a prompt is the beginning of
    #: a training document token for token.
    SIMPLE = "simple"
    #: The turns of chat data (recipe of the paper, section 2); no document of ours boxes an answer in them.
    CHAT = "chat"
    #: A conversation that asks for thinking first and a boxed answer; the roles of the paper's appendix in our words.
    STRUCTURED = "structured"
    #: A text file of the user's own with `{question}` in it.
    FILE = "file"


#: Where a template has its question. Every other brace is text, as in `\boxed{}`.
_PLACE = "{question}"

_TEXTS = {
    Template.SIMPLE: "Question: {question}\nAnswer:",
    Template.CHAT: "User: {question}\nAssistant:",
    Template.STRUCTURED: (
        "User talks with Assistant. User poses a problem; Assistant first thinks it through step by step and then states "
        "the answer.\n"
        "User: Write the final answer inside \\boxed{}; only what stands in \\boxed{} is read.\n"
        "{question}\n"
        "Assistant:"
    ),
}

#: A response ends before these: the model has begun the next turn by itself (the released scripts' list).
STOP_STRINGS = ("User:", "Assistant:", "Question:", "Answer:")


def check_template(template: Template, file: Path | None) -> None:
    """Raises `ConfigError` where a file is named without `Template.FILE` or the other way round."""
    if (template is Template.FILE) != (file is not None):
        raise ConfigError(
            f"template={template.value} with template_file={file}; name a file with template=file, and only with it"
        )


def check_stop_strings(stop_strings: Sequence[str]) -> None:
    """Raises `ConfigError` for an empty one: it stands at the beginning of every response."""
    if not all(stop_strings):
        raise ConfigError(
            f"stop_strings {tuple(stop_strings)} hold an empty one, which would end every response at once"
        )


def load(template: Template, file: Path | None) -> str:
    """The text of a template, with `{question}` in it. Raises `ConfigError` for a file that is no template."""
    check_template(template, file)
    return _TEXTS[template] if file is None else _read(file)


def _read(file: Path) -> str:
    try:
        text = file.read_bytes().decode(
            "utf-8-sig"
        )  # bytes: line ends stay as they are; -sig: a byte-order mark is no text
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the template in {file}: {error}; it must be UTF-8 text") from error
    if (times := text.count(_PLACE)) != 1:
        raise ConfigError(f"the template in {file} has {_PLACE} {times} times; it needs it exactly once")
    return text


def render(text: str, question: str) -> str:
    r"""The prompt for a question; braces in either are left alone.

    >>> render("Box it in \\boxed{}: {question}", "1+{x}")
    'Box it in \\boxed{}: 1+{x}'
    """
    return text.replace(_PLACE, question)


def before_stop(text: str, stop_strings: Sequence[str]) -> str:
    """A response up to the first stop string."""
    return text[: min((at for stop in stop_strings if (at := text.find(stop)) >= 0), default=len(text))]
