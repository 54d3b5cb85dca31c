"""Asks the installed OpenRLHF whether it takes a command line, without Ray, vLLM, DeepSpeed or a GPU.

OpenRLHF's parser and its checks are the `__main__` block of `cli/train_ppo_ray.py`, whose imports need all of those. So the
block alone is taken out of the file and executed, with a `train` that returns at once. That takes milliseconds.
"""

import argparse
import ast
import importlib.metadata
import importlib.util
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from megatron_octo.errors import ConfigError, ResourceError

#: Option names changed in 0.10.2 and in 0.11.2, so another version may mean something else.
VERSION = "0.11.2"
INSTALL = f"pip install --no-deps openrlhf=={VERSION}"


def installed() -> str | None:
    """Version of the installed OpenRLHF; None without one."""
    try:
        return importlib.metadata.version("openrlhf")
    except importlib.metadata.PackageNotFoundError:
        return None


def check(argv: Sequence[str]) -> None:
    """Raises `ConfigError` in OpenRLHF's words where it refuses this command line, or would change what it says."""
    parse(argv)


def parse(argv: Sequence[str]) -> SimpleNamespace:
    """The options as OpenRLHF's `train` would get them, nested at the dots.

    Raises:
        ConfigError: an unknown or abbreviated option, a value it does not take, one of its asserts, or a printed change.
        ResourceError: OpenRLHF is not installed, or is another version.
    """
    package = _package()
    program = package / "cli" / "train_ppo_ray.py"
    received: list[SimpleNamespace] = []
    printed: list[str] = []
    names: dict[str, Any] = {
        "argparse": _argparse(argv),
        "os": os,
        "datetime": datetime,
        "hierarchize": _hierarchize(package),
        "print": printed.append,
        "train": received.append,
    }
    try:
        exec(compile(_main_block(program), str(program), "exec"), names)  # noqa: S102 - the file of an installed package
    except (AssertionError, AttributeError, TypeError) as error:  # the latter two where it compares a missing option
        raise ConfigError(f"OpenRLHF refuses the command: {error}") from error
    if printed:
        raise ConfigError(f"OpenRLHF would not do what the command says: {' '.join(printed)}")
    return received[0]


def _package() -> Path:
    version = installed()
    spec = importlib.util.find_spec("openrlhf")
    if version != VERSION or spec is None or not spec.submodule_search_locations:
        raise ResourceError(f"OpenRLHF {VERSION} is needed and {version or 'none'} is installed; run {INSTALL}")
    return Path(spec.submodule_search_locations[0])


def _main_block(program: Path) -> ast.Module:
    """The `__main__` block without its import of OpenRLHF's utilities, which import torch."""
    for node in ast.parse(program.read_text()).body:
        if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test):
            return ast.Module([line for line in node.body if not _imports_own(line)], [])
    raise ResourceError(f"{program} has no __main__ block; reinstall it: {INSTALL}")


def _imports_own(line: ast.stmt) -> bool:
    return isinstance(line, ast.ImportFrom) and line.module == "openrlhf.utils.config"


def _hierarchize(package: Path) -> Any:
    """OpenRLHF's function that nests options, from its file of the standard library only."""
    names: dict[str, Any] = {}
    file = package / "utils" / "config.py"
    exec(compile(file.read_text(), str(file), "exec"), names)  # noqa: S102 - the file of an installed package
    return names["hierarchize"]


def _argparse(argv: Sequence[str]) -> SimpleNamespace:
    """The module, with a parser that reads these words instead of the process's."""

    class Parser(argparse.ArgumentParser):
        def __init__(self) -> None:
            # OpenRLHF takes abbreviations, which another version may read as another option.
            super().__init__(prog="train_ppo_ray", allow_abbrev=False)

        def parse_args(self) -> argparse.Namespace:  # type: ignore[override]
            return super().parse_args(list(argv))

        def error(self, message: str) -> NoReturn:
            raise ConfigError(f"OpenRLHF {VERSION} refuses the command: {message}")

    return SimpleNamespace(**(vars(argparse) | {"ArgumentParser": Parser}))
