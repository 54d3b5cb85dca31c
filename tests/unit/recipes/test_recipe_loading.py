"""Finding recipes by name, and the messages when that fails."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_octo import recipes
from megatron_octo.errors import ConfigError

LAB = '''
from megatron_octo.recipes import llama32_3b
from megatron_octo.training.config import MidTraining

def ablation_7() -> MidTraining:
    """Three lines on top of another."""
    return llama32_3b.stable()

def helper(x: int) -> MidTraining:
    return llama32_3b.stable()

def count() -> int:
    return 1
'''


@pytest.fixture
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_every_recipe_is_described() -> None:
    for name, description in recipes.names().items():
        assert description.endswith("."), name


def test_shared_modules_hold_no_recipes() -> None:
    modules = {name.partition(".")[0] for name in recipes.names()}
    assert {"llama32_1b", "llama32_3b", "llama31_8b", "ablations", "ablations_rl"} <= modules
    assert not modules & {"octothinker", "corpora"}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("llama32_3b.decay_lang", "nearest: llama32_3b.decay_long"),
        ("llama32_3b", "nearest: llama32_3b."),
        ("octothinker.stable", "unknown recipe 'octothinker.stable'"),
        ("decay", "'megatron-octo list' prints all"),
        ("", "unknown recipe ''"),
    ],
)
def test_unknown_names(name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recipes.load(name)
    assert hint in str(caught.value)


def test_a_recipe_of_the_user(working_directory: Path) -> None:
    (working_directory / "my_lab").mkdir()
    (working_directory / "my_lab" / "runs.py").write_text(LAB)
    assert recipes.load("my_lab.runs:ablation_7") == recipes.load("llama32_3b.stable")


@pytest.mark.parametrize("function", ["ablation_8", "helper", "count", ""])
def test_unknown_function_of_the_user(working_directory: Path, function: str) -> None:
    (working_directory / "lab_b.py").write_text(LAB)
    with pytest.raises(ConfigError, match=r"lab_b has no recipe .*ablation_7.*takes no arguments"):
        recipes.load(f"lab_b:{function}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_package_of_mine", "'lab_c' needs 'no_such_package_of_mine', which is not installed"),
        ("1 / 0", "'lab_c' fails to import: ZeroDivisionError: division by zero"),
        ("def (", "'lab_c' fails to import: SyntaxError"),
        ("x = 1", "has no public function that returns a config"),
    ],
)
def test_module_of_the_user_that_fails(working_directory: Path, text: str, message: str) -> None:
    (working_directory / "lab_c.py").write_text(text)
    with pytest.raises(ConfigError) as caught:
        recipes.load("lab_c:run")
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["no_lab:run", "no_lab.runs:run"])
def test_missing_module_of_the_user(working_directory: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"no module 'no_lab' .* run from the folder that holds it"):
        recipes.load(name)


@pytest.mark.parametrize("name", [":run", "..:run"])
def test_a_module_name_that_is_none(working_directory: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        recipes.load(name)
