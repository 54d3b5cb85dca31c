"""What asking will cost, by hand."""

import pytest

from megatron_octo.curation.config import Annotation, LanguageModel, Refinement
from megatron_octo.curation.language_model import costs

VLLM = LanguageModel(vllm="m", tokens_per_second_per_gpu=1000.0, dollars_per_gpu_hour=2.0)


def test_annotation_of_a_sample() -> None:
    config = Annotation(model=VLLM, sample=1000, max_characters=3500)
    found = costs.annotation(config, documents=10_000, characters=10_000 * 7000)  # cut to 3,500: 1,000 tokens
    assert (found.requests, found.prompt_tokens, found.answer_tokens) == (1000, 1_500_000, 150_000)
    assert found.gpu_hours == pytest.approx((0.3 * 1_500_000 + 0.7 * 150_000) / 1000 / 3600)
    assert found.dollars == pytest.approx(2 * 555 / 3600)


def test_fewer_documents_than_the_sample() -> None:
    assert costs.annotation(Annotation(model=VLLM, sample=1000), documents=10, characters=100).documents == 10


def test_refinement_of_long_documents() -> None:
    config = Refinement(model=VLLM, max_characters=7000)
    found = costs.refinement(config, documents=10, characters=140_000)
    assert (found.documents, found.requests) == (10, 20)
    assert (found.prompt_tokens, found.answer_tokens) == (40_000 + 20 * 500, 36_000)


def test_the_papers_corpus_costs_what_the_published_rate_says() -> None:
    """70B tokens at 2,209 tokens/s are 8,800 GPU-hours where prompts are as long as answers."""
    config = Refinement(model=LanguageModel(vllm="m"))
    found = costs.refinement(config, documents=69_200_000, characters=round(70e9 * 3.5))
    assert found.gpu_hours == pytest.approx(8800, rel=0.15)
    assert "69,200,000 documents, 69,200,000 requests: about 105B prompt and 63B answer tokens, 9.49K GPU-hours at" in (
        costs.spell(found, config.model)
    )


def test_another_tokenizer() -> None:
    config = Refinement(model=VLLM)
    assert costs.refinement(config, documents=1, characters=9000, characters_per_token=3.0).answer_tokens == 2700


def test_a_stand_in_needs_no_gpu() -> None:
    found = costs.refinement(Refinement(model=LanguageModel()), documents=1, characters=3500)
    assert (found.gpu_hours, found.dollars) == (None, None)
    assert costs.spell(found, LanguageModel()) == ("1 document, 1 request: about 1.5K prompt and 900 answer tokens")


def test_what_is_said() -> None:
    found = costs.Estimate(
        documents=1000, requests=1200, prompt_tokens=1_500_000, answer_tokens=500_000, gpu_hours=12.34, dollars=24.68
    )
    model = LanguageModel(vllm="m", max_tokens=1_000_000)
    assert costs.spell(found, model) == (
        "1,000 documents, 1,200 requests: about 1.5M prompt and 500K answer tokens, 12.3 GPU-hours at 2,209 tokens/s and GPU, $25; "
        "max_tokens allows 1M, 50 % of that: the stage will stop there, resumable"
    )
