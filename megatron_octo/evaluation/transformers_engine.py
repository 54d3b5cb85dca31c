"""Completions by transformers on this machine: fp32 on a CPU, bf16 on a GPU. Memory grows with the batch size."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import torch

from megatron_octo import generation
from megatron_octo.errors import ResourceError
from megatron_octo.evaluation.completions import Completion, Sampling
from megatron_octo.evaluation.engines import require_room, seed_at
from megatron_octo.generation import Response


class TransformersCompleter:
    """A model directory behind `generation.batches`, which sorts by length and lets rows leave their batch."""

    def __init__(self, model: Path, *, batch_size: int) -> None:
        device, dtype = generation.device_and_dtype()
        self._model = generation.load_model(model, dtype, device)
        self._tokenizer = generation.load_tokenizer(model)
        self._batch_size = batch_size

    def complete(
        self, prompts: Sequence[str], sampling: Sampling, *, done: Collection[int]
    ) -> Iterator[list[tuple[int, Completion]]]:
        """Batch by batch; one with something left to do is done whole, and gives what is left of it."""
        self._require_room(prompts, sampling.max_new_tokens)
        batches = generation.batches(
            self._model,
            self._tokenizer,
            prompts,
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            batch_size=self._batch_size,
            seed=seed_at(sampling.seed, 0),
            stop_strings=sampling.stop_strings,
            done=done,
        )
        try:
            for batch in batches:
                yield [(place, _completion(response)) for place, response in batch.items() if place not in done]
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                f"{self._batch_size} responses at a time do not fit into the GPU's memory; set a smaller batch_size"
            ) from error

    def _require_room(self, prompts: Sequence[str], max_new_tokens: int) -> None:
        longest = max(len(generation.prompt_ids(self._tokenizer, prompt)) for prompt in set(prompts))
        require_room(longest, max_new_tokens, getattr(self._model.config, "max_position_embeddings", None))


def _completion(response: Response) -> Completion:
    return Completion(text=response.text, num_tokens=len(response.token_ids), finished=response.finished)
