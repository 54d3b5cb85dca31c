"""Frozen dataclasses as configs: `path=value` overrides, strict keys both ways, YAML out.

Every stage's config is a `@dataclass(frozen=True, kw_only=True)`. This module turns one into plain data and back, and
changes single fields by their dotted path. Unknown keys and values of a wrong type are errors that name the nearest allowed
ones. Standard library only, so that `list`, `show` and `--dry-run` answer at once.
"""

import dataclasses
import enum
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from megatron_octo.errors import ConfigError, nearest

ConfigT = TypeVar("ConfigT")

#: `field(metadata=AT_RUN_TIME)`: how a stage runs (worker processes), not what it makes; another value is no other config.
AT_RUN_TIME: Mapping[str, Any] = types.MappingProxyType({"at_run_time": True})


def to_dict(config: Any) -> Any:
    """Plain JSON data of a config: dataclasses become dicts, tuples lists, paths and enums strings."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_dict(value) for key, value in config.items()}
    if isinstance(config, (tuple, list)):
        return [to_dict(value) for value in config]
    if isinstance(config, enum.Enum):
        return config.value
    if isinstance(config, Path):
        return str(config)
    return config


def at_run_time(config: Any, path: str = "") -> frozenset[str]:
    """Dotted paths of the fields that only say how to run; the others make two runs the same stage."""
    found: set[str] = set()
    for field in dataclasses.fields(config) if dataclasses.is_dataclass(config) else ():
        here = f"{path}.{field.name}" if path else field.name
        found |= {here} if field.metadata.get("at_run_time") else at_run_time(getattr(config, field.name), here)
    return frozenset(found)


def require_positive(config: object, *fields: str) -> None:
    """Raises `ConfigError` for the first of these fields that is below 1."""
    for name in fields:
        value = getattr(config, name)
        if value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1")


def from_dict(cls: type[ConfigT], data: Any, *, path: str = "") -> ConfigT:
    """The inverse of `to_dict`. Raises `ConfigError` on unknown or missing keys and on values of a wrong type."""
    return typing.cast(ConfigT, _build(cls, data, path))


def load(cls: type[ConfigT], file: Path) -> ConfigT:
    """Read a config written by `save`. Raises `ConfigError` naming the file."""
    try:
        data = json.loads(file.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read the config {file}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file} is not JSON: {error}") from error
    return from_dict(cls, data)


def dumps(config: Any) -> str:
    """The JSON text of a config, stable enough to compare by eye and by `diff`."""
    return json.dumps(to_dict(config), indent=2) + "\n"


def to_yaml(config: Any) -> str:
    """YAML for reading; field order kept."""
    import yaml  # not at the top: configs import nothing heavier than the standard library

    return str(yaml.safe_dump(to_dict(config), sort_keys=False, width=120))


def override(config: ConfigT, assignments: Sequence[str]) -> ConfigT:
    """Apply `path=value` strings, as typed on the command line, to scalar fields.

    >>> override(recipe, ["schedule.peak_lr=1e-5", "branch=none"])
    """
    data = to_dict(config)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise ConfigError(f"'{assignment}' is not an override; write path=value, for example schedule.peak_lr=1e-5")
        _assign(data, config, path.split("."), text, path)
    # Checked once, with all of them in place: two fields that must change together can.
    return from_dict(type(config), data)


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every leaf in which two plain-data configs differ, as (dotted path, old value, new value)."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, after, f"{path}[{index}]")
    elif old != new:
        yield path, old, new


def _assign(data: Any, config: Any, keys: list[str], text: str, path: str) -> None:
    """Set one field in the plain data of `config`, following `keys` down both."""
    if not dataclasses.is_dataclass(config):
        above = path.removesuffix("." + ".".join(keys))
        raise ConfigError(f"'{path}': nothing lies below '{above}'; only config sections have fields")
    key, rest = keys[0], keys[1:]
    names = [field.name for field in dataclasses.fields(config)]
    if key not in names:
        raise ConfigError(f"unknown field '{path}': {type(config).__name__} has no '{key}'{nearest(key, names)}")
    if rest:
        _assign(data[key], getattr(config, key), rest, text, path)
    else:
        data[key] = to_dict(_parse(typing.get_type_hints(type(config))[key], text, path))


def _parse(hint: Any, text: str, path: str) -> Any:
    """A command-line word as the type the field declares."""
    options = _options(hint)
    # First: a field that may be None or text takes the word for None.
    if type(None) in options and text.lower() in ("none", "null"):
        return None
    for option in options:
        if option is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if option in (int, float):
            try:
                return _number(option, text)
            except ValueError:
                continue
        if option is str or option is Path or (isinstance(option, type) and issubclass(option, enum.Enum)):
            return _build(option, text, path)
    raise ConfigError(
        f"{path}={text}: {_spell(hint)} expected; only scalars can be set here, write a recipe for the rest"
    )


def _number(kind: type, text: str) -> float | int:
    """`1_000`, `2e9` and `3e-5`; an int field takes `2e9` because it is whole."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    if kind is float:
        return value
    if value != int(value):
        raise ValueError(text)
    return int(text) if text.lstrip("+-").replace("_", "").isdigit() else int(value)


def _build(hint: Any, data: Any, path: str) -> Any:
    options = _options(hint)
    if data is None and type(None) in options:
        return None
    errors = []
    for option in options:
        if option is type(None):
            continue
        try:
            return _build_one(option, data, path)
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def _build_one(option: Any, data: Any, path: str) -> Any:
    origin = typing.get_origin(option)
    if origin is tuple and isinstance(data, (list, tuple)):
        item = typing.get_args(option)[0]
        return tuple(_build(item, value, f"{path}[{index}]") for index, value in enumerate(data))
    if origin is dict and isinstance(data, Mapping):
        value_type = typing.get_args(option)[1]
        return {str(key): _build(value_type, value, f"{path}.{key}") for key, value in data.items()}
    if dataclasses.is_dataclass(option) and isinstance(data, Mapping):
        return _build_dataclass(option, data, path)
    if isinstance(option, type):
        if issubclass(option, enum.Enum):
            allowed = [member.value for member in option]
            if data not in allowed:
                raise ConfigError(
                    f"{path or option.__name__}: '{data}' is not allowed{nearest(str(data), map(str, allowed))}"
                )
            return option(data)
        if option is Path and isinstance(data, (str, Path)):
            return Path(data)
        if option is float and isinstance(data, (int, float)) and not isinstance(data, bool):
            return float(data)
        if option in (int, str, bool) and type(data) is option:
            return data
    raise ConfigError(f"{path or 'value'}: {_spell(option)} expected, not {data!r}")


def _build_dataclass(cls: Any, data: Mapping[str, Any], path: str) -> Any:
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    for key in data:
        if key not in names:
            where = f"{path}.{key}" if path else key
            raise ConfigError(f"unknown field '{where}': {cls.__name__} has no '{key}'{nearest(key, names)}")
    values = {key: _build(hints[key], value, f"{path}.{key}" if path else key) for key, value in data.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{path or cls.__name__}: {error}") from error


def _options(hint: Any) -> tuple[Any, ...]:
    return (
        typing.get_args(hint)
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        else (hint,)
    )


def _spell(hint: Any) -> str:
    return " or ".join(
        "none" if option is type(None) else getattr(option, "__name__", str(option)) for option in _options(hint)
    )
