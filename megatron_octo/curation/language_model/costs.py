"""What asking a language model will cost, before it is asked: tokens, GPU-hours, dollars. Arithmetic on counts and a config."""

from dataclasses import dataclass

from megatron_octo import units
from megatron_octo.curation.config import Annotation, LanguageModel, Refinement

#: Guess, for English with formulas; measure it with the model's tokenizer.
CHARACTERS_PER_TOKEN = 3.5
#: Of our prompts without the document (1,700 characters each).
PROMPT_TOKENS = 500
#: Reasons in at most 100 words and the score (guess).
ANNOTATION_TOKENS = 150
#: Tokens of a rewritten text per token of the original (guess: the length is to be kept, noise goes).
REFINED_SHARE = 0.9
#: `tokens_per_second_per_gpu` is of answers as long as their prompts; of the time these take, the share that reading the prompt takes (guess).
PROMPT_TIME_SHARE = 0.3


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of one stage, if each question needs one attempt."""

    documents: int
    requests: int
    prompt_tokens: int
    answer_tokens: int
    #: None where no GPU is asked.
    gpu_hours: float | None
    dollars: float | None

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.answer_tokens


def annotation(
    config: Annotation, *, documents: int, characters: int, characters_per_token: float = CHARACTERS_PER_TOKEN
) -> Estimate:
    """Scores of the sample of `documents` with so many `characters` together."""
    sample = min(config.sample, documents)
    shown = min(characters / max(1, documents), config.max_characters)
    return _estimate(
        config.model,
        documents=sample,
        requests=sample,
        prompt_tokens=sample * (shown / characters_per_token + PROMPT_TOKENS),
        answer_tokens=sample * min(ANNOTATION_TOKENS, config.max_new_tokens),
    )


def refinement(
    config: Refinement, *, documents: int, characters: int, characters_per_token: float = CHARACTERS_PER_TOKEN
) -> Estimate:
    """All of these `documents` rewritten, which have so many `characters` together."""
    requests = max(documents, -(-characters // config.max_characters))
    tokens = characters / characters_per_token
    return _estimate(
        config.model,
        documents=documents,
        requests=requests,
        prompt_tokens=tokens + requests * PROMPT_TOKENS,
        answer_tokens=min(REFINED_SHARE * tokens, requests * config.max_new_tokens),
    )


def spell(estimate: Estimate, model: LanguageModel) -> str:
    """`500,000 documents, 500,000 requests: about 679M prompt and 75M answer tokens, 32.2 GPU-hours at 2,209 tokens/s and GPU`."""
    line = (
        f"{units.counted(estimate.documents, 'document')}, {units.counted(estimate.requests, 'request')}: about "
        f"{units.count(estimate.prompt_tokens)} prompt and {units.count(estimate.answer_tokens)} answer tokens"
    )
    if estimate.gpu_hours is not None:
        line += (
            f", {units.count(estimate.gpu_hours)} GPU-hours at {model.tokens_per_second_per_gpu:,.0f} tokens/s and GPU"
        )
    if estimate.dollars is not None:
        line += f", ${estimate.dollars:,.0f}"
    if model.max_tokens is not None:
        line += f"; max_tokens allows {units.count(model.max_tokens)}"
        if model.max_tokens < estimate.tokens:
            line += f", {100 * model.max_tokens / estimate.tokens:.0f} % of that: the stage will stop there, resumable"
    return line


def _estimate(
    model: LanguageModel, *, documents: int, requests: int, prompt_tokens: float, answer_tokens: float
) -> Estimate:
    work = PROMPT_TIME_SHARE * prompt_tokens + (1 - PROMPT_TIME_SHARE) * answer_tokens
    hours = None if model.is_stand_in else work / model.tokens_per_second_per_gpu / 3600
    price = model.dollars_per_gpu_hour
    return Estimate(
        documents=documents,
        requests=requests,
        prompt_tokens=round(prompt_tokens),
        answer_tokens=round(answer_tokens),
        gpu_hours=hours,
        dollars=None if hours is None or price is None else hours * price,
    )
