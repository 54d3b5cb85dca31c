"""Text to token ids with Hugging Face `tokenizers`, the reference every faster engine must agree with.

About 3 MB of text per second and core. Nothing is added silently: BOS and EOS are put where the two flags say, and the
post-processor of `tokenizer.json` is not asked. A special token spelled out in the text becomes that token, as in Megatron.
"""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from megatron_octo.errors import ConfigError

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"


class HuggingFaceEngine:
    """A tokenizer directory, and the policy of what stands between documents."""

    name = "tokenizers"
    version = tokenizers.__version__

    def __init__(self, directory: Path, *, prepend_bos: bool, append_eod: bool) -> None:
        self._tokenizer = _load(directory / TOKENIZER_FILE)
        special = _special_tokens(directory / CONFIG_FILE)
        self.bos_id = self._id_of(special.get("bos_token"))
        self.eos_id = self._id_of(special.get("eos_token"))
        self._before = [_required(self.bos_id, "bos_token", "prepend_bos", directory)] if prepend_bos else []
        self._after = [_required(self.eos_id, "eos_token", "append_eod", directory)] if append_eod else []

    @property
    def vocab_size(self) -> int:
        """Entries including added tokens."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Tokens of all documents back to back, and the length of each. A document without text has length 0."""
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        documents = [[*self._before, *ids, *self._after] if (ids := encoding.ids) else [] for encoding in encodings]
        lengths = np.fromiter(map(len, documents), np.int32, len(documents))
        tokens = np.fromiter(itertools.chain.from_iterable(documents), np.int32, int(lengths.sum()))
        return tokens, lengths

    def _id_of(self, token: str | None) -> int | None:
        return None if token is None else self._tokenizer.token_to_id(token)


def _load(file: Path) -> tokenizers.Tokenizer:
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception for missing and for broken files
        raise ConfigError(f"cannot read the tokenizer {file}: {error}") from error
    # Settings some files carry for inference; a corpus is never cut or padded.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _special_tokens(file: Path) -> dict[str, str]:
    """bos_token, eos_token, ...; the values are strings or `{"content": ...}`."""
    try:
        settings: dict[str, Any] = json.loads(file.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"cannot read {file} ({error}); it tells which tokens begin and end a document") from error
    tokens = ((key, value.get("content") if isinstance(value, dict) else value) for key, value in settings.items())
    return {key: value for key, value in tokens if key.endswith("_token") and isinstance(value, str)}


def _required(token_id: int | None, token: str, field: str, directory: Path) -> int:
    if token_id is None:
        raise ConfigError(f"{field}=true needs a {token} and the tokenizer in {directory} has none; set {field}=false")
    return token_id
