"""What people name by mistake as the source of a conversion: the message says what they may have meant."""

import re
from pathlib import Path

from megatron_octo import artifacts
from megatron_octo.conversion.config import Conversion, Direction
from megatron_octo.errors import ConfigError

#: A model's name on the Hugging Face Hub.
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
#: One of these is in a stage, a save directory of Megatron-LM, or a checkpoint.
_MEGATRON = ("checkpoints", "latest_checkpointed_iteration.txt", ".metadata")


def require(settings: Conversion) -> None:
    """Raises `ConfigError` for a source that is no directory, or one of the other direction, and for options that name files."""
    source, direction = settings.source, settings.direction
    if not source.is_dir():
        raise ConfigError(f"{source} is {_not_a_directory(source)}; {_what_to_name(source, direction)}")
    is_megatron = any((source / name).exists() for name in _MEGATRON)
    if direction is Direction.TO_HF and not is_megatron and (source / "config.json").is_file():
        raise ConfigError(f"{source} is a Hugging Face directory, not a Megatron checkpoint; did you mean from-hf?")
    if direction is Direction.FROM_HF and is_megatron and not (source / "config.json").is_file():
        raise ConfigError(f"{source} is a Megatron checkpoint, not a Hugging Face directory; did you mean to-hf?")
    if source.name == "checkpoints" and (source.parent / artifacts.MARK).is_file():
        raise ConfigError(
            f"{source} is the inside of a stage; name the stage, {source.parent}, or one checkpoint in it"
        )
    for option, directory in (("--reference", settings.reference), ("--tokenizer", settings.tokenizer)):
        if directory is not None and not directory.is_dir():
            raise ConfigError(f"{option} {directory} is {_not_a_directory(directory)}; name {_place_of(directory)}")


def _not_a_directory(path: Path) -> str:
    return "a file" if path.exists() else "no directory"


def _place_of(path: Path) -> str:
    return f"its directory, {path.parent}" if path.exists() else "a directory on this machine"


def _what_to_name(source: Path, direction: Direction) -> str:
    if source.exists():
        return f"name {_place_of(source)}"
    if direction is Direction.TO_HF:
        return "name a training stage, one of its checkpoints, or a Megatron-LM checkpoint"
    if _HUB_NAME.fullmatch(str(source)) and not source.parent.exists():
        return f"fetch it first: hf download {source} --local-dir {source.name}, and name that directory"
    return "name a Hugging Face model directory"
