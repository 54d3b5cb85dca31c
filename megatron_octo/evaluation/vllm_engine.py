"""Completions by vLLM's offline engine on this machine: fp32 on a CPU, bf16 on a GPU. Written against vLLM 0.29.

A prompt's seed is its own, so what it gets does not depend on the others, up to rounding: vLLM's kernels round by what happens to
share a step, and a rerun may break a near tie another way.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from megatron_octo import generation
from megatron_octo.errors import ResourceError
from megatron_octo.evaluation.completions import Completion, Sampling
from megatron_octo.evaluation.engines import require_room, seed_at

try:
    from vllm import LLM, RequestOutput, SamplingParams, TokensPrompt
except ImportError as error:
    raise ResourceError(
        f"engine=vllm needs vLLM ({error}): pip install vllm into an environment that has megatron-octo; or take "
        "engine=transformers, or engine=server with a server that runs elsewhere"
    ) from error

#: Prompts handed over at a time, what a kill loses at most. Four times as many as vLLM runs together by default: the end of a
#: chunk, when the longest are alone, is short against the rest.
CHUNK_PROMPTS = 1024


class VLLMCompleter:
    """A model directory behind `vllm.LLM`. Prompts are tokenized by us, as for every engine: vLLM adds no second BOS."""

    def __init__(self, model: Path) -> None:
        generation.require_model(model)
        _, dtype = generation.device_and_dtype()
        self._tokenizer = generation.load_tokenizer(model)
        self._llm = LLM(
            str(model),
            dtype=str(dtype).removeprefix("torch."),
            max_model_len=-1,  # as many positions as the model has and the memory holds
            generation_config="vllm",  # the tokenizer's EOS alone ends a response, as in the other engines
        )

    def complete(
        self, prompts: Sequence[str], sampling: Sampling, *, done: Collection[int]
    ) -> Iterator[list[tuple[int, Completion]]]:
        """Chunk by chunk."""
        known = {prompt: generation.prompt_ids(self._tokenizer, prompt) for prompt in set(prompts)}
        require_room(max(map(len, known.values())), sampling.max_new_tokens, self._llm.model_config.max_model_len)
        places = [place for place in range(len(prompts)) if place not in done]
        for start in range(0, len(places), CHUNK_PROMPTS):
            chunk = places[start : start + CHUNK_PROMPTS]
            outputs = self._llm.generate(
                [TokensPrompt(prompt_token_ids=known[prompts[place]]) for place in chunk],
                [_parameters(sampling, place) for place in chunk],
                use_tqdm=False,
            )
            yield [(place, _completion(output)) for place, output in zip(chunk, outputs, strict=True)]


def _parameters(sampling: Sampling, place: int) -> SamplingParams:
    return SamplingParams(
        max_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        stop=list(sampling.stop_strings),
        seed=seed_at(sampling.seed, place),
    )


def _completion(output: RequestOutput) -> Completion:
    (only,) = output.outputs
    if only.finish_reason not in ("stop", "length"):
        raise ResourceError(f"vLLM gave up on a prompt ({only.finish_reason}); run again to continue with what is left")
    return Completion(text=only.text, num_tokens=len(only.token_ids), finished=only.finish_reason == "stop")
