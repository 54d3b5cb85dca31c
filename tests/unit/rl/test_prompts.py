"""The order of prompts, and that both engines see the same tokens, whatever the tokenizer adds to a document."""

import dataclasses
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from megatron_octo import generation
from megatron_octo.errors import ConfigError, CorpusError
from megatron_octo.questions import Question
from megatron_octo.rl.config import Engine, LengthStage, ReinforcementLearning
from megatron_octo.rl.prompts import Prompt, openrlhf_rows, prepare, render_all
from megatron_octo.templates import Template

EOS, BOS = "<|end_of_text|>", "<|begin_of_text|>"
NOTHING, BEGINS, ENDS, BOTH = "$A", f"{BOS} $A", f"$A {EOS}", f"{BOS} $A {EOS}"


def make_tokenizer(added: str, *, bos_is_special: bool = True) -> PreTrainedTokenizerFast:
    """One token per byte, EOS 0, BOS 1; `added` says what stands around a document, as Llama-3's files do."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {EOS: 0, BOS: 1} | {byte: number for number, byte in enumerate(alphabet, start=2)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = TemplateProcessing(single=added, special_tokens=[(EOS, 0), (BOS, 1)])
    special = {"eos_token": EOS} | ({"bos_token": BOS} if bos_is_special else {})
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def recipe(**changes: object) -> ReinforcementLearning:
    settings: dict = {
        "name": "test", "init_from": "test", "engine": Engine.TRL, "prompts": "test", "template": Template.SIMPLE,
        "prompts_per_step": 2, "samples_per_prompt": 2, "mini_batch_prompts": 2, "train_steps": 4,
        "learning_rate": 1e-6, "kl_coef": 0.0, "temperature": 1.0, "top_p": 1.0, "max_prompt_tokens": 20,
        "length_schedule": (LengthStage(from_step=0, max_response_tokens=16),),
        "clip_epsilon": 0.2, "max_grad_norm": 1.0, "eval_interval": 4, "eval_sets": (),
    }  # fmt: skip
    return ReinforcementLearning(**(settings | changes))


def questions(*texts: str) -> list[Question]:
    return [Question(question=text, answer=f"answer {text}") for text in texts]


@pytest.mark.parametrize(
    ("added", "written", "ids"),
    [
        (NOTHING, "Ab", [34, 67]),
        (BEGINS, f"{BOS}Ab", [1, 34, 67]),
        (ENDS, "Ab", [34, 67]),
        (BOTH, f"{BOS}Ab", [1, 34, 67]),
    ],
)
def test_both_engines_see_the_same_tokens(tmp_path: Path, added: str, written: str, ids: list[int]) -> None:
    make_tokenizer(added).save_pretrained(tmp_path / "tokenizer")
    tokenizer = generation.load_tokenizer(tmp_path / "tokenizer")
    (row,) = openrlhf_rows([Prompt(text="Ab", answer="1", number=0)], tokenizer)
    assert row["input"] == written
    assert generation.prompt_ids(tokenizer, "Ab") == ids
    assert tokenizer(row["input"], add_special_tokens=False)["input_ids"] == ids


def test_a_bos_that_its_text_does_not_give_is_refused() -> None:
    tokenizer = make_tokenizer(BEGINS, bos_is_special=False)
    with pytest.raises(CorpusError, match=r"tokens \[29, .*have \[1, 34, 67\].*make <\|begin_of_text\|> a special"):
        openrlhf_rows([Prompt(text="Ab", answer="1", number=0)], tokenizer)


def test_a_prompt_that_ends_a_document_is_refused() -> None:
    prompt = Prompt(text=f"Ab{EOS}", answer="1", number=0)
    with pytest.raises(CorpusError, match=r"\[34, 67, 0\].*have \[34, 67\].*take special tokens out"):
        openrlhf_rows([prompt], make_tokenizer(NOTHING))


def test_a_template_with_bos_in_it_is_refused_where_the_tokenizer_adds_it(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text(f"{BOS}{{question}}")
    own = recipe(template=Template.FILE, template_file=tmp_path / "mine.txt")
    assert prepare(own, questions("a"), make_tokenizer(NOTHING)).kept == 1
    with pytest.raises(ConfigError, match="which the tokenizer puts there by itself; take it out of the template"):
        prepare(own, questions("a"), make_tokenizer(BEGINS))


def test_a_row_is_what_openrlhf_reads() -> None:
    prompts = [
        Prompt(text='"A"\n\u2028', answer="\\frac{1}{2}", number=3),
        Prompt(text="B", answer="2", number=7, eval_set="math500"),
    ]
    written = openrlhf_rows(prompts, make_tokenizer(NOTHING))
    assert [(row["input"], row["datasource"]) for row in written] == [('"A"\n\u2028', "train"), ("B", "math500")]
    assert [json.loads(row["label"]) for row in written] == [
        {"answer": "\\frac{1}{2}", "number": 3, "eval_set": None},
        {"answer": "2", "number": 7, "eval_set": "math500"},
    ]


def test_every_epoch_has_every_question_once_in_an_order_of_its_own() -> None:
    prepared = prepare(recipe(), questions("a", "b", "c", "d"), make_tokenizer(NOTHING))
    assert [prompt.number for prompt in prepared.sequence] == list(range(8))
    epochs = [[prompt.answer[-1] for prompt in prepared.sequence[start : start + 4]] for start in (0, 4)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == ["a", "b", "c", "d"]
    assert epochs[0] != epochs[1]
    assert {prompt.text for prompt in prepared.sequence if prompt.answer == "answer a"} == {"Question: a\nAnswer:"}


def test_the_order_is_the_seed_s() -> None:
    def order(seed: int) -> list[Prompt]:
        return prepare(recipe(seed=seed), questions(*"abcdefgh"), make_tokenizer(NOTHING)).sequence

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_more_steps_continue_the_same_order() -> None:
    short = prepare(recipe(), questions("a", "b", "c"), make_tokenizer(NOTHING)).sequence
    long = prepare(recipe(train_steps=8), questions("a", "b", "c"), make_tokenizer(NOTHING)).sequence
    assert (len(long), long[:8]) == (16, short)


def test_long_prompts_are_dropped_and_counted() -> None:
    # 18 tokens around the question; BOS is one of the prompt's.
    asked = questions("a", "bb", "ccc")
    assert counts(asked, NOTHING) == (2, 1)
    assert counts(asked, BEGINS) == (1, 2)
    assert counts(asked, ENDS) == (2, 1)


def counts(asked: list[Question], added: str) -> tuple[int, int]:
    prepared = prepare(recipe(), asked, make_tokenizer(added))
    return prepared.kept, prepared.dropped


def test_nothing_but_long_prompts_is_an_error() -> None:
    with pytest.raises(CorpusError, match="all 2 prompts are longer than max_prompt_tokens=20; raise it"):
        prepare(recipe(), questions("aaaa", "bbbb"), make_tokenizer(NOTHING))


def test_an_evaluation_set_keeps_its_order() -> None:
    chat = dataclasses.replace(recipe(), template=Template.CHAT)
    assert render_all(chat, questions("b", "a"), eval_set="gsm8k") == [
        Prompt(text="User: b\nAssistant:", answer="answer b", number=0, eval_set="gsm8k"),
        Prompt(text="User: a\nAssistant:", answer="answer a", number=1, eval_set="gsm8k"),
    ]
