"""A byte-level tokenizer and a two-layer Llama that a second of training teaches to continue a few texts."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers import decoders as tokenizer_decoders
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

EOS, BOS = "<|end_of_text|>", "<|begin_of_text|>"


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, EOS 0, BOS 1; like ours it puts nothing before or after a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {EOS: 0, BOS: 1} | {byte: number for number, byte in enumerate(alphabet, start=2)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizer_decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=EOS, bos_token=BOS)


def make(directory: Path, documents: Sequence[str], *, steps: int = 60) -> Path:
    """Train on documents of one length, each ended by EOS, and write the Hugging Face directory."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=128, eos_token_id=0, bos_token_id=1,
        )
    )  # fmt: skip
    batch = torch.tensor([[*tokenizer(text)["input_ids"], 0] for text in documents])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
