"""Who answers the questions: transformers on the local CPU or GPU."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from megatron_octo import generation
from megatron_octo.generation import Response


def answer(
    model_directory: Path,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float,
    batch_size: int,
    seed: int,
    stop_strings: Sequence[str],
    advance: Callable[[int], object],
) -> list[Response]:
    """One response per prompt, in order; fp32 on a CPU, bf16 on a GPU."""
    on_gpu = torch.cuda.is_available()
    dtype, device = (torch.bfloat16, "cuda") if on_gpu else (torch.float32, "cpu")
    return generation.generate(
        generation.load_model(model_directory, dtype, device),
        generation.load_tokenizer(model_directory),
        prompts,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        batch_size=batch_size,
        seed=seed,
        stop_strings=stop_strings,
        advance=advance,
    )
