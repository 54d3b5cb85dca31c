"""Every published run as data: `llama32_3b.decay_long`, `ablations.web_pro`, ..., and your own as `my_lab.runs:ablation_7`.

A recipe is a public function without arguments whose return annotation is a config dataclass; its docstring's first line
is what `megatron-octo list` prints. There is no registry: a new module in this folder, or a module of yours, is enough.
"""

import dataclasses
import importlib
import inspect
import os
import pkgutil
import sys
import typing
from collections.abc import Callable
from types import ModuleType
from typing import Any

from megatron_octo.errors import ConfigError, nearest

Recipe = Callable[[], Any]


def load(name: str) -> Any:
    """The config of a recipe: `module.function` of this folder, or `package.module:function` of the user's.

    Raises `ConfigError` with the nearest names when it is unknown, and with the cause when a user's module fails to import.
    """
    if ":" in name:
        return _load_foreign(name)
    module_name, _, function = name.partition(".")
    if module_name in _module_names():
        recipes = _recipes_of(_module(module_name))
        if function in recipes:
            return recipes[function]()
    raise ConfigError(f"unknown recipe '{name}'{nearest(name, names())}; 'megatron-octo list' prints all")


def names() -> dict[str, str]:
    """Every recipe of this folder by name, with its one-line description."""
    return {
        f"{module_name}.{function}": _first_line(recipe)
        for module_name in _module_names()
        for function, recipe in _recipes_of(_module(module_name)).items()
    }


def _load_foreign(name: str) -> Any:
    module_name, _, function = name.partition(":")
    recipes = _recipes_of(_import_foreign(module_name))
    if function not in recipes:
        known = nearest(function, recipes) if recipes else "; it has no public function that returns a config"
        raise ConfigError(
            f"unknown recipe '{name}': {module_name} has no recipe '{function}'{known}. A recipe takes no arguments and its "
            "return annotation is a config, such as `def ablation_7() -> MidTraining:`"
        )
    try:
        return recipes[function]()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"the recipe '{name}' fails: {type(error).__name__}: {error}") from error


def _import_foreign(module_name: str) -> ModuleType:
    # An installed command does not have the working directory on its path. Last place: it must not shadow a library.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"no module '{error.name}' for the recipe module '{module_name}': not in {os.getcwd()} and not installed; "
                "run from the folder that holds it"
            ) from error
        raise ConfigError(f"the recipe module '{module_name}' needs '{error.name}', which is not installed") from error
    except Exception as error:
        raise ConfigError(
            f"the recipe module '{module_name}' fails to import: {type(error).__name__}: {error}"
        ) from error


def _module_names() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__)]


def _module(module_name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{module_name}")


def _recipes_of(module: ModuleType) -> dict[str, Recipe]:
    """Recipes defined in a module, in the order they are written; functions it imports belong to their own module."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and _is_recipe(name, value)
    }


def _is_recipe(name: str, function: Recipe) -> bool:
    if name.startswith("_") or inspect.signature(function).parameters:
        return False
    return dataclasses.is_dataclass(typing.get_type_hints(function).get("return"))


def _first_line(recipe: Recipe) -> str:
    return (inspect.getdoc(recipe) or "").partition("\n")[0]
