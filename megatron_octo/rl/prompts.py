"""The prompts of a run in order, the same for both engines, and the rows in which OpenRLHF reads them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from transformers import PreTrainedTokenizerBase

from megatron_octo import templates
from megatron_octo.errors import CorpusError
from megatron_octo.generation import prompt_ids
from megatron_octo.questions import Question
from megatron_octo.rl.config import ReinforcementLearning

#: `datasource` of training prompts; those of an evaluation carry the name of their set.
TRAINING = "train"


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A rendered question."""

    #: Without BOS.
    text: str
    answer: str
    #: Place in the order of the run, or in its evaluation set.
    number: int
    #: Name of that set; None in training.
    eval_set: str | None = None


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The prompts of all steps, and what became of the questions."""

    sequence: list[Prompt]
    #: Questions in use.
    kept: int
    #: Questions left out because their prompt is longer than `max_prompt_tokens`.
    dropped: int


def prepare(
    recipe: ReinforcementLearning, questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase
) -> Prepared:
    """The prompts of all steps in order: epoch after epoch, each shuffled by the seed.

    Raises:
        ConfigError: the template file is none.
        CorpusError: every prompt is too long.
    """
    rendered = render_all(recipe, questions)
    kept = [prompt for prompt in rendered if len(prompt_ids(tokenizer, prompt.text)) <= recipe.max_prompt_tokens]
    if not kept:
        raise CorpusError(
            f"all {len(questions)} prompts are longer than max_prompt_tokens={recipe.max_prompt_tokens}; raise it"
        )
    return Prepared(sequence=_sequence(recipe, kept), kept=len(kept), dropped=len(questions) - len(kept))


def render_all(
    recipe: ReinforcementLearning, questions: Sequence[Question], *, eval_set: str | None = None
) -> list[Prompt]:
    """Every question rendered, in the given order."""
    text = templates.load(recipe.template, recipe.template_file)
    return [
        Prompt(text=templates.render(text, each.question), answer=each.answer, number=place, eval_set=eval_set)
        for place, each in enumerate(questions)
    ]


def _sequence(recipe: ReinforcementLearning, prompts: list[Prompt]) -> list[Prompt]:
    rng, order, length = Random(recipe.seed), list[Prompt](), recipe.train_steps * recipe.prompts_per_step
    while len(order) < length:
        order += rng.sample(prompts, len(prompts))
    return [replace(each, number=place) for place, each in enumerate(order[:length])]


def openrlhf_rows(prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """Rows of `input`, `label` and `datasource`, ready for a tokenizer that is told to add nothing (OpenRLHF's way).

    Raises:
        CorpusError: a row would not give the tokens that TRL and evaluation see.
    """
    opening = _opening(tokenizer)
    for text in {prompt.text for prompt in prompts}:
        _check_tokens(tokenizer, opening, text)
    return [_row(prompt, opening) for prompt in prompts]


def _row(prompt: Prompt, opening: str) -> dict[str, Any]:
    label = {"answer": prompt.answer, "number": prompt.number, "eval_set": prompt.eval_set}
    return {"input": opening + prompt.text, "label": json.dumps(label), "datasource": prompt.eval_set or TRAINING}


def _opening(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the tokenizer puts before a document, as text: BOS, or nothing."""
    ids = prompt_ids(tokenizer, "a")
    added = len(ids) - len(_plain_ids(tokenizer, "a"))
    return "".join(tokenizer.convert_ids_to_tokens(ids[:added]))


def _check_tokens(tokenizer: PreTrainedTokenizerBase, opening: str, text: str) -> None:
    wanted, given = prompt_ids(tokenizer, text), _plain_ids(tokenizer, opening + text)
    if given != wanted:
        remedy = (
            f"make {opening} a special token in the tokenizer's files" if opening else "take special tokens out of it"
        )
        raise CorpusError(
            f"the prompt {(opening + text)[:60]!r} gives the tokens {given[:6]}... ({len(given)}), where evaluation and the trl "
            f"engine have {wanted[:6]}... ({len(wanted)}); {remedy}"
        )


def _plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
