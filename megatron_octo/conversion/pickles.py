"""Pickles without the classes they name: a reader that runs nothing of them, and a writer of the few forms checkpoints need.

Python's own unpickler imports whatever a pickle names and calls it, so a file from elsewhere could do anything, and even an
honest one would import torch. `load` looks every name up in a table instead. What a table holds must stand being written to by
the pickle: immutable values, bound methods, and classes made anew for every pickle.
"""

import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any

Names = Mapping[tuple[str, str], Any]


class Record:
    """An object of a class that is not imported: its attributes."""


class CalledRecord(Record):
    """What a class returned, or an instance of it: attributes, and the `arguments` that the class was called with, if any."""

    arguments: tuple[Any, ...]

    def __new__(cls, *arguments: Any, **_: Any) -> "CalledRecord":
        self = super().__new__(cls)
        if arguments:
            self.arguments = arguments
        return self

    def __setstate__(self, state: Any) -> None:
        """What is not a dict of attributes is kept as `state`."""
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})

    def __setitem__(self, key: Any, value: Any) -> None:
        """Classes derived from dict have items besides."""
        self.__dict__[str(key)] = value

    def append(self, value: Any) -> None:
        """Classes derived from list have items besides."""
        self.__dict__.setdefault("items", []).append(value)


class Forgotten(Record):
    """An object that nobody will ask."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


def load(stream: IO[bytes], names: Names, *, inert: bool = False, storage: Callable[[Any], Any] | None = None) -> Any:
    """The object of a pickle.

    Args:
        names: what stands for (module, name); a class derived from `Record` or `dict` is derived from once more.
        inert: whether other names become `CalledRecord`s.
        storage: what stands for a persistent id.

    Raises:
        pickle.UnpicklingError: it names something else, or is no pickle.
    """
    try:
        return _Unpickler(stream, names, inert, storage).load()
    except (EOFError, AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise pickle.UnpicklingError(f"it is damaged ({error})") from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: IO[bytes], names: Names, inert: bool, storage: Callable[[Any], Any] | None) -> None:
        super().__init__(stream)
        self._names = names
        self._inert = inert
        self._storage = storage
        self._made: dict[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._made:
            self._made[module, name] = self._make(module, name)
        return self._made[module, name]

    def persistent_load(self, pid: Any) -> Any:
        if self._storage is None:
            raise pickle.UnpicklingError("it refers to data outside, which no checkpoint needs here")
        return self._storage(pid)

    def _make(self, module: str, name: str) -> Any:
        found = self._names.get((module, name), CalledRecord if self._inert else None)
        if found is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint needs")
        # A pickle can set attributes of a class; not of one that the next pickle sees.
        return type(name, (found,), {}) if isinstance(found, type) and issubclass(found, Record | dict) else found


# Writing --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Global:
    """A class or function by name."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    """What a function returns; `function` is a `Global`, or a call that returns one."""

    function: "Global | Call"
    arguments: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Instance:
    """An object made without a call, and the state it is given: attributes, or what its `__setstate__` takes."""

    cls: Global
    state: Any


@dataclass(frozen=True)
class Persistent:
    """Something that lies outside of the pickle."""

    pid: Any


def dumps(value: Any) -> bytes:
    """A pickle of protocol 2, which is what `torch.load(weights_only=True)` reads. Nothing is shared within it."""
    return pickle.PROTO + b"\x02" + _encode(value) + pickle.STOP


def _encode(value: Any) -> bytes:
    return _ENCODERS[type(value)](value)


def _encode_int(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return pickle.BININT + struct.pack("<i", value)
    digits = pickle.encode_long(value)
    return pickle.LONG1 + bytes([len(digits)]) + digits


def _encode_str(value: str) -> bytes:
    text = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(text)) + text


def _encode_all(values: Any) -> bytes:
    return pickle.MARK + b"".join(map(_encode, values))


def _encode_dict(value: dict[Any, Any]) -> bytes:
    pairs = (part for pair in value.items() for part in pair)
    return pickle.EMPTY_DICT + _encode_all(pairs) + pickle.SETITEMS


def _encode_instance(value: Instance) -> bytes:
    return _encode(value.cls) + pickle.EMPTY_TUPLE + pickle.NEWOBJ + _encode(value.state) + pickle.BUILD


_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: pickle.NONE,
    bool: lambda value: pickle.NEWTRUE if value else pickle.NEWFALSE,
    int: _encode_int,
    float: lambda value: pickle.BINFLOAT + struct.pack(">d", value),
    str: _encode_str,
    tuple: lambda value: _encode_all(value) + pickle.TUPLE,
    list: lambda value: pickle.EMPTY_LIST + _encode_all(value) + pickle.APPENDS,
    dict: _encode_dict,
    Global: lambda value: pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode(),
    Call: lambda value: _encode(value.function) + _encode(value.arguments) + pickle.REDUCE,
    Instance: _encode_instance,
    Persistent: lambda value: _encode(value.pid) + pickle.BINPERSID,
}
