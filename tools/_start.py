"""Starts what a script of this folder names; without the packages it needs, says which to install."""

import importlib
import sys

EXIT_USER_ERROR = 2


def start(module: str, entry: str = "main") -> int:
    """The exit code of a module's entry."""
    try:
        code: int = getattr(importlib.import_module(module), entry)()
    except ModuleNotFoundError as error:
        print(f"error: {error.name} is not installed: pip install megatron-octo[data]", file=sys.stderr)
        return EXIT_USER_ERROR
    return code
