"""Responses of a Hugging Face causal model to prompts: RL rollouts and evaluation sample through this one loop.

Prompts are sorted by length and left-padded. Every few tokens the rows that ended leave the batch, which is what HF's own
`generate` cannot do: it carries every row until the longest ends. 0.5M parameters on one CPU thread: about 15,000 tokens/s at
128 rows (2026-11).
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from megatron_octo.errors import ArtifactError, ConfigError
from megatron_octo.templates import STOP_STRINGS, before_stop

#: Tokens between two looks at which rows have ended.
CHECK_EVERY = 8


@dataclass(frozen=True, kw_only=True)
class Response:
    """One sampled response."""

    prompt_ids: list[int]
    #: As sampled, up to and including the EOS or the token that completed a stop string.
    token_ids: list[int]
    #: Without special tokens, cut before the stop string.
    text: str
    #: By EOS or a stop string; False at the length cap.
    finished: bool


def device_and_dtype() -> tuple[str, torch.dtype]:
    """Where to sample and in which precision: bf16 on a GPU, fp32 on a CPU."""
    return ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)


def load_model(directory: Path, dtype: torch.dtype, device: str = "cpu") -> PreTrainedModel:
    """A causal model from a local directory. Raises `ArtifactError` where there is none."""
    _silence_transformers()
    require_model(directory)
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, local_files_only=True)
    loaded: PreTrainedModel = model.to(device)
    return loaded


def require_model(directory: Path) -> None:
    """Raises `ArtifactError` where a directory holds no Hugging Face model."""
    if not (directory / "config.json").exists():
        raise ArtifactError(f"{directory} is no Hugging Face model (no config.json); convert the checkpoint first")


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """Raises `ArtifactError` for one without EOS: its responses would never end."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    if tokenizer.eos_token_id is None:
        raise ArtifactError(f"the tokenizer in {directory} has no eos_token; set it in tokenizer_config.json")
    return tokenizer


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Tokens of a prompt, beginning as the tokenizer begins a document (with BOS where its files say so) and left open.

    Raises `ConfigError` where the prompt begins with BOS as text and the tokenizer puts another in front.
    """
    ids: list[int] = tokenizer(prompt)["input_ids"]
    if len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
        raise ConfigError(
            f"a prompt begins with {tokenizer.bos_token}, which the tokenizer puts there by itself; take it out of the template"
        )
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    batch_size: int | None = None,
    seed: int = 0,
    stop_strings: Sequence[str] = STOP_STRINGS,
    advance: Callable[[int], object] = lambda responses: None,
) -> list[Response]:
    """One response per prompt, in the order of the prompts; the arguments are those of `batches`.

    Args:
        advance: called with the number of responses made since the last call.
    """
    responses: dict[int, Response] = {}
    for batch in batches(
        model, tokenizer, prompts, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p,
        batch_size=batch_size, seed=seed, stop_strings=stop_strings,
    ):  # fmt: skip
        responses |= batch
        advance(len(batch))
    return [responses[index] for index in range(len(prompts))]


def batches(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    batch_size: int | None = None,
    seed: int = 0,
    stop_strings: Sequence[str] = STOP_STRINGS,
    done: Collection[int] = (),
) -> Iterator[dict[int, Response]]:
    """Responses by the places of their prompts, batch by batch, longest prompts first: what does not fit is known at once.

    Args:
        temperature: 0 is greedy.
        batch_size: responses at a time; memory grows with it. None takes all at once.
        seed: of this call alone; the global random state is neither read nor changed.
        stop_strings: a response ends with the first of these, which its text leaves out.
        done: places without need of a response; a batch of only such is left out. The other batches stay as they are, so
            their responses are the same.
    """
    # Once each: evaluations ask for many samples of the same prompt.
    known = {prompt: prompt_ids(tokenizer, prompt) for prompt in set(prompts)}
    encoded = [known[prompt] for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda index: len(encoded[index]))
    ending = _Ending(tokenizer, stop_strings)
    training = model.training
    model.train(mode=False)  # gradient checkpointing, on in training mode, would switch the KV cache off
    try:
        for start in reversed(range(0, len(order), batch_size or len(order))):
            batch = order[start : start + (batch_size or len(order))]
            if all(index in done for index in batch):
                continue
            sampler = _Sampler(temperature=temperature, top_p=top_p, seed=seed + start, device=model.device)
            sampled = _generate_batch(model, [encoded[index] for index in batch], sampler, ending, max_new_tokens)
            ended = zip(batch, sampled, strict=True)
            yield {index: ending.response(encoded[index], tokens) for index, tokens in ended}
    finally:
        model.train(training)


@torch.no_grad()
def _generate_batch(
    model: PreTrainedModel,
    prompts: list[list[int]],
    sampler: "_Sampler",
    ending: "_Ending",
    max_new_tokens: int,
) -> list[list[int]]:
    """Token ids per prompt, with up to `CHECK_EVERY` tokens too many. B: rows still going, T: tokens so far."""
    input_ids, mask_BT = (tensor.to(model.device) for tensor in _left_pad(prompts, ending.eos))
    positions = (mask_BT.cumsum(-1) - 1).clamp(min=0)
    sampled = torch.full((len(prompts), max_new_tokens), ending.eos, device=model.device)
    rows = torch.arange(len(prompts), device=model.device)
    cache = DynamicCache(config=model.config)
    for step in range(max_new_tokens):
        output = model(
            input_ids=input_ids, attention_mask=mask_BT, position_ids=positions, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        input_ids = sampler(output.logits[:, -1])
        sampled[rows, step] = input_ids[:, 0]
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(rows), 1)], dim=1)
        positions = positions[:, -1:] + 1
        if (step + 1) % CHECK_EVERY == 0:
            going = ending.still_going(sampled[rows, : step + 1])
            if not len(going):
                break
            if len(going) < len(rows):
                rows, input_ids, mask_BT, positions = rows[going], input_ids[going], mask_BT[going], positions[going]
                cache.batch_select_indices(going)
    return [row[: step + 1] for row in sampled.tolist()]


def _left_pad(prompts: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, each (B, T)."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


class _Ending:
    """Where responses end: at EOS or a stop string."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_strings: Sequence[str]) -> None:
        self._tokenizer, self._stop_strings = tokenizer, stop_strings
        self.eos: int = tokenizer.eos_token_id
        #: Tokens that hold a stop string for certain: one per byte, plus what was sampled since the last look.
        self._window = CHECK_EVERY + max((len(stop.encode()) for stop in stop_strings), default=0)

    def still_going(self, sampled_BT: torch.Tensor) -> torch.Tensor:
        """Indices of the rows without EOS or stop string."""
        going = (sampled_BT != self.eos).all(dim=1).nonzero()[:, 0]
        unstopped = [not self._stops(ids) for ids in sampled_BT[going, -self._window :].tolist()]
        left: torch.Tensor = going[torch.tensor(unstopped, dtype=torch.bool, device=going.device)]
        return left

    def response(self, prompt: list[int], sampled: list[int]) -> Response:
        """Cut what was sampled at the first EOS or stop string."""
        finished = self.eos in sampled
        ids = sampled[: sampled.index(self.eos) + 1] if finished else sampled
        text = _decode(self._tokenizer, ids)
        kept = before_stop(text, self._stop_strings)
        if kept != text:
            return Response(prompt_ids=prompt, token_ids=self._until_stop(ids), text=kept, finished=True)
        return Response(prompt_ids=prompt, token_ids=ids, text=text, finished=finished)

    def _until_stop(self, ids: list[int]) -> list[int]:
        """The shortest prefix that holds a stop string, by bisection."""
        low, high = 1, len(ids)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._stops(ids[:middle]) else (middle + 1, high)
        return ids[:low]

    def _stops(self, ids: list[int]) -> bool:
        text = _decode(self._tokenizer, ids)
        return before_stop(text, self._stop_strings) != text


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    # Llama-3's files ask for a clean-up of spaces that would change what was sampled.
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _silence_transformers() -> None:
    # Its bars for every file of a checkpoint, and its advice; progress is ours to show.
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


class _Sampler:
    """Next tokens from logits: greedy, or temperature and nucleus sampling with a random state of its own."""

    def __init__(self, *, temperature: float, top_p: float, seed: int, device: torch.device) -> None:
        self._temperature, self._top_p = temperature, top_p
        self._generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, logits_BV: torch.Tensor) -> torch.Tensor:
        """(B, V) -> (B, 1)."""
        if self._temperature == 0:
            return logits_BV.argmax(-1, keepdim=True)
        probabilities = torch.softmax(logits_BV.float() / self._temperature, dim=-1)
        if self._top_p < 1:
            probabilities = _nucleus(probabilities, self._top_p)
        return torch.multinomial(probabilities, 1, generator=self._generator)


def _nucleus(probabilities_BV: torch.Tensor, top_p: float) -> torch.Tensor:
    """Zero all but the likeliest tokens that together reach `top_p` (Holtzman et al., 2020)."""
    ordered, tokens = probabilities_BV.sort(dim=-1, descending=True)
    ordered[ordered.cumsum(-1) - ordered >= top_p] = 0
    return torch.zeros_like(probabilities_BV).scatter(-1, tokens, ordered)
