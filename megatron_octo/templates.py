r"""Prompts for base models: the text around a question, and the strings that end a response. RL and evaluation share them."""

import enum


class Template(enum.Enum):
    """Prompt templates for base models."""

    #: The paper writes `Question:{}\nAnswer:{}`; we add the space of our documents, so that a prompt is the beginning of
    #: a training document token for token.
    SIMPLE = "simple"
    #: The turns of chat data (recipe of the paper, section 2); no document of ours boxes an answer in them.
    CHAT = "chat"
    #: A conversation that asks for thinking first and a boxed answer; the roles of the paper's appendix in our words.
    STRUCTURED = "structured"


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


def render(template: Template, question: str) -> str:
    r"""The prompt for a question.

    >>> render(Template.SIMPLE, "1+1")
    'Question: 1+1\nAnswer:'
    """
    return _TEXTS[template].replace("{question}", question)


def before_stop(text: str) -> str:
    """A response up to the first stop string."""
    return text[: min((at for stop in STOP_STRINGS if (at := text.find(stop)) >= 0), default=len(text))]
