"""What of a tokenizer a model's config has to know: its BOS and EOS ids, and that its tokens fit. JSON only; nothing is tokenised."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo.conversion.hf_files import refuse_pointer
from megatron_octo.errors import ArtifactError, ConfigError

#: Carried over as they are.
FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "tokenizer.model", "tokenizer.model.v3", "tekken.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
#: The one of these that is large; whoever reads its tokens, or hashes them, says what is wrong with it.
_LARGE = "tokenizer.json"
#: One of these makes a tokenizer.
VOCABULARIES = (_LARGE, "tokenizer.model", "vocab.json", "tekken.json")
#: Where a model says which tokens begin and end a text; models that stop at several say so in the first.
_ID_FILES = ("generation_config.json", "config.json")
_NAME_FILES = ("tokenizer_config.json", "special_tokens_map.json")

Ids = int | list[int] | None


@dataclass(frozen=True)
class SpecialTokens:
    """`None`: the model has no such token, or its files do not say."""

    bos: Ids
    eos: Ids

    @property
    def fields(self) -> dict[str, Ids]:
        """As config.json and generation_config.json have them."""
        return {"bos_token_id": self.bos, "eos_token_id": self.eos}


NO_TOKENS = SpecialTokens(bos=None, eos=None)


def files(directory: Path) -> dict[str, Path]:
    """A tokenizer's files by name; none where there is no vocabulary among them."""
    found = {name: directory / name for name in FILES if (directory / name).is_file()}
    return found if found.keys() & set(VOCABULARIES) else {}


def require_readable(files: Mapping[str, Path]) -> None:
    """Look into files before they are carried over.

    Raises:
        ArtifactError: names one that cannot be read, is a pointer of Git LFS, or a `.json` that holds no JSON object.
    """
    for file in files.values():
        try:
            refuse_pointer(file)
        except OSError as error:
            raise ArtifactError(f"cannot read {file}: {error.strerror}") from error
        if file.suffix == ".json" and file.name != _LARGE:
            _read(file)


def find(directory: Path, vocabulary: Mapping[str, int]) -> SpecialTokens:
    """The BOS and EOS ids of a directory with a tokenizer."""
    said, names = _first_of(directory, _ID_FILES), _first_of(directory, _NAME_FILES)
    return SpecialTokens(
        *(said.get(f"{what}_id", _id(names.get(what), vocabulary)) for what in ("bos_token", "eos_token"))
    )


def read_vocabulary(directory: Path) -> dict[str, int]:
    """Ids by token, as far as JSON files tell: a tokenizer may be a SentencePiece model alone, then this is empty or short."""
    found: dict[str, int] = {}
    if (whole := _json(directory / _LARGE)) is not None:
        vocab = whole.get("model", {}).get("vocab", {})
        # Unigram models list [token, score] instead.
        found |= vocab if isinstance(vocab, dict) else {token: at for at, (token, _) in enumerate(vocab)}
        found |= {added["content"]: added["id"] for added in whole.get("added_tokens", ())}
    else:
        found |= _json(directory / "vocab.json") or {}
    found |= _json(directory / "added_tokens.json") or {}
    added = (_json(directory / "tokenizer_config.json") or {}).get("added_tokens_decoder", {})
    return found | {token["content"]: int(number) for number, token in added.items()}


def require_fit(vocabulary: Mapping[str, int], *, vocab_size: int, directory: Path) -> None:
    """Raises `ConfigError` for a tokenizer with ids that the embedding has no row for. Fewer tokens than rows are usual."""
    if vocabulary and (largest := max(vocabulary.values())) >= vocab_size:
        raise ConfigError(
            f"the tokenizer in {directory} goes up to id {largest:,} and the model has {vocab_size:,} tokens; "
            "name the tokenizer the model was trained with: --tokenizer DIR"
        )


def _id(token: Any, vocabulary: Mapping[str, int]) -> int | None:
    """A token's id; it is spelled as a string or as an object with `content`."""
    content = token.get("content") if isinstance(token, dict) else token
    return vocabulary.get(content) if isinstance(content, str) else None


def _first_of(directory: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """All fields of these files that are not null, the first file's before the others'."""
    found: dict[str, Any] = {}
    for name in reversed(names):
        found |= {key: value for key, value in (_json(directory / name) or {}).items() if value is not None}
    return found


def _json(file: Path) -> dict[str, Any] | None:
    return _read(file) if file.is_file() else None


def _read(file: Path) -> dict[str, Any]:
    try:
        refuse_pointer(file)
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cannot read {file}: {error}; fetch it again") from error
    if not isinstance(found, dict):
        raise ArtifactError(f"{file} holds no JSON object; fetch it again")
    return found
