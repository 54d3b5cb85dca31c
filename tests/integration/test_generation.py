"""The sampling loop against Hugging Face's own, where a response ends, and what a prompt begins with."""

from pathlib import Path

import pytest
import tiny_llama
import torch
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from megatron_octo import generation
from megatron_octo.errors import ConfigError

PROMPTS = ["Ask", "Ask: 1. ", "Ask: 2. Answer", "A", "Ask: 1. Say"]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    documents = ["Ask: 1. Say: one. Question: 9", "Ask: 2. Answer two and then  "]
    directory = tiny_llama.make(tmp_path_factory.mktemp("model"), documents, steps=150)
    return generation.load_model(directory, torch.float32), generation.load_tokenizer(directory)


def test_greedy_equals_hugging_face(loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = loaded
    ours = generation.generate(model, tokenizer, ["Ask: 2. Answer", "Ask: 2", "Ask: 2. A"], max_new_tokens=30)
    for prompt, response in zip(["Ask: 2. Answer", "Ask: 2", "Ask: 2. A"], ours, strict=True):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        theirs = model.generate(ids, max_new_tokens=30, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        assert response.token_ids == theirs.tolist()
        assert response.finished


@pytest.mark.parametrize("batch_size", [1, 2, None])
def test_the_batch_changes_nothing(
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase], batch_size: int | None
) -> None:
    together = generation.generate(*loaded, PROMPTS, max_new_tokens=30, batch_size=batch_size)
    alone = [generation.generate(*loaded, [prompt], max_new_tokens=30)[0] for prompt in PROMPTS]
    assert together == alone


def test_a_stop_string_ends_the_response_and_is_not_kept(
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase],
) -> None:
    (response,) = generation.generate(*loaded, ["Ask: 1. "], max_new_tokens=60)
    assert response.text == "Say: one. "
    assert response.finished
    # The tokens are what was sampled, the stop string among them.
    assert loaded[1].decode(response.token_ids) == "Say: one. Question:"


@pytest.mark.parametrize(
    ("stop_strings", "text", "sampled"),
    [
        ((), "Say: one. Question: 9", "Say: one. Question: 9<|end_of_text|>"),
        (("tion",), "Say: one. Ques", "Say: one. Question"),
        ((": 9", "one"), "Say: ", "Say: one"),
    ],
)
def test_stop_strings_of_the_user_s_own(
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase], stop_strings: tuple[str, ...], text: str, sampled: str
) -> None:
    (response,) = generation.generate(*loaded, ["Ask: 1. "], max_new_tokens=60, stop_strings=stop_strings)
    assert (response.text, loaded[1].decode(response.token_ids), response.finished) == (text, sampled, True)


def test_a_stop_string_of_several_bytes_a_character_is_seen_at_once() -> None:
    # Ten characters, thirty tokens: a window of one token per character would never hold them.
    tokenizer = tiny_llama.byte_tokenizer()
    ending = generation._Ending(tokenizer, ("\u554f" * 10,))
    sampled = tokenizer("x" * 2 + "\u554f" * 10)["input_ids"]
    assert ending.still_going(torch.tensor([sampled, [40] * len(sampled)])).tolist() == [1]


def test_the_cap_leaves_a_response_unfinished(loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    (response,) = generation.generate(*loaded, ["Ask: 1. "], max_new_tokens=5)
    assert (response.text, len(response.token_ids), response.finished) == ("Say: ", 5, False)


def test_sampling_depends_on_its_seed_alone(loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    def sample(seed: int, top_p: float = 1.0) -> list[str]:
        torch.rand(1)  # the global random state moves on
        responses = generation.generate(
            *loaded, PROMPTS, max_new_tokens=20, temperature=3.0, top_p=top_p, seed=seed
        )  # fmt: skip
        return [response.text for response in responses]

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
    greedy = [response.text for response in generation.generate(*loaded, PROMPTS, max_new_tokens=20)]
    assert sample(1, top_p=1e-6) == greedy


def test_progress_counts_every_response(loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    made: list[int] = []
    generation.generate(*loaded, PROMPTS, max_new_tokens=2, batch_size=2, advance=made.append)
    assert made == [1, 2, 2]


@pytest.mark.parametrize(
    ("single", "ids"),
    [("$A", [34]), ("<|begin_of_text|> $A", [1, 34]), ("<|begin_of_text|> $A <|end_of_text|>", [1, 34])],
)
def test_a_prompt_begins_as_the_tokenizer_begins_a_document(tmp_path: Path, single: str, ids: list[int]) -> None:
    tokenizer = tiny_llama.byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=single, special_tokens=[(tiny_llama.EOS, 0), (tiny_llama.BOS, 1)]
    )
    tokenizer.save_pretrained(tmp_path)
    reloaded = generation.load_tokenizer(tmp_path)
    assert generation.prompt_ids(reloaded, "A") == ids


def test_bos_in_a_prompt_is_refused_where_the_tokenizer_adds_it() -> None:
    tokenizer = tiny_llama.byte_tokenizer()
    assert generation.prompt_ids(tokenizer, f"{tiny_llama.BOS}A") == [1, 34]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{tiny_llama.BOS} $A", special_tokens=[(tiny_llama.BOS, 1)]
    )
    with pytest.raises(ConfigError, match="take it out of the template"):
        generation.prompt_ids(tokenizer, f"{tiny_llama.BOS}A")
