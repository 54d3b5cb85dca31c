"""What tokenisation is: which text, which tokenizer, how documents end. No tokenizer is imported here."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class TokenizerTraining:
    """A byte-level BPE trained on the spot, for worlds that have no tokenizer of their own."""

    #: JSONL or Parquet files whose text it learns from.
    inputs: tuple[Path, ...]
    text_field: str = "text"
    #: Entries including the 256 bytes and the special tokens.
    vocab_size: int
    #: Documents read of every input; the rest is skipped.
    max_documents_per_input: int
    #: Regular expression whose matches merges stay within; None is Llama-3's, with single digits.
    split_pattern: str | None = None
    bos_token: str = "<|begin_of_text|>"  # noqa: S105 - Llama-3's names
    eos_token: str = "<|end_of_text|>"  # noqa: S105
    #: Longest input the model will take, written into the tokenizer's files.
    model_max_length: int


@dataclass(frozen=True, kw_only=True)
class Tokenization:
    """One corpus to Megatron `.bin`/`.idx` shards."""

    corpus: str
    inputs: tuple[Path, ...]
    text_field: str = "text"
    #: Directory with `tokenizer.json` and `tokenizer_config.json`.
    tokenizer: Path
    #: Put the tokenizer's BOS before every document. UNCONFIRMED in the paper; off: documents are separated by EOD alone.
    prepend_bos: bool = False
    #: Put the tokenizer's EOS after every document (Megatron's `--append-eod`).
    append_eod: bool = True
    #: Shuffle documents with this seed, so that training needs no document index; None keeps the file order.
    shuffle_seed: int | None = 1234
