"""What a stage says in an environment that is not its own, and that the lists of packages hold what the stages import."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_octo import compatibility, packages
from megatron_octo.errors import ConfigError

ROOT = Path(__file__).parents[2]
MODULES = [*packages.STAGES, *packages.BESIDE, *packages.ELSEWHERE]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with nothing but Python."""
    directory = tmp_path_factory.mktemp("empty")
    venv.create(directory, with_pip=False)
    return directory


def leave(environment: Path, module: str) -> tuple[int, str]:
    """Exit code and words of a stage there."""
    command = [environment / "bin" / "python", "-m", module, "config.json", "out"]
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        cwd=environment,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("module", [module for module in MODULES if packages.needs(module)[0]])
def test_a_stage_in_an_empty_environment(empty: Path, module: str) -> None:
    wanted, how = packages.needs(module)
    code, said = leave(empty, module)
    if module == "megatron_octo.rl.run":  # it reads its job before it imports TRL
        assert said == "error: cannot read the config config.json: No such file or directory\n"
    else:
        assert said == f"error: {module} needs {', '.join(wanted)}, not installed in {empty}; {how}\n"
    assert code == 2


@pytest.mark.parametrize(
    ("there", "says"),
    [
        (
            {"nemo_run": "0.11.1"},
            "pip install 'megatron-octo[cpu]', in an environment of its own: this one is NeMo-Run's (extra `launch`, docs/cluster.md)",
        ),
        (
            {"openrlhf": "0.11.2", "deepspeed": "0.19.6"},
            "pip install 'megatron-octo[cpu]', in an environment of its own: this one is OpenRLHF's (extra `rl`, docs/rl.md#openrlhf)",
        ),
        ({"openrlhf": "0.11.2"}, "pip install 'megatron-octo[cpu]'"),
    ],
)
def test_training_in_the_environment_of_another_extra(tmp_path: Path, there: dict[str, str], says: str) -> None:
    venv.create(tmp_path, with_pip=False)
    [site] = tmp_path.glob("lib/python*/site-packages")
    for package, version in there.items():
        (site / f"{package}-{version}.dist-info").mkdir()
        (site / f"{package}-{version}.dist-info" / "METADATA").write_text(f"Name: {package}\nVersion: {version}\n")
    code, said = leave(tmp_path, "megatron_octo.training.run")
    assert (code, said.partition("; ")[2]) == (2, f"{says}\n")


def test_a_defect_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    packages.explain(KeyError, KeyError("loss"), None)
    packages.explain(ImportError, ImportError("libcudart.so.13: cannot open shared object file"), None)
    assert capsys.readouterr().err == "KeyError: 'loss'\nImportError: libcudart.so.13: cannot open shared object file\n"


def test_an_error_for_people_while_a_stage_is_imported(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        packages.explain(ConfigError, ConfigError("size is 3; sizes are even"), None)
    assert (left.value.code, capsys.readouterr().err) == (2, "error: size is 3; sizes are even\n")


@pytest.mark.parametrize("module", MODULES)
def test_a_list_holds_what_the_stage_imports(module: str) -> None:
    """Or what one of the listed brings; what is not here cannot be judged. Imports in functions are not looked at."""
    wanted = {*packages.needs(module)[0], "rich"}  # rich comes with the base
    known = wanted | {brought for package in wanted for brought in requirements(package)}
    by_top_level = importlib.metadata.packages_distributions()
    imported = {top: {canonical(one) for one in by_top_level.get(top, ())} for top in third_party(module)}
    assert {top for top, names in imported.items() if names and not names & known} == set()


def requirements(package: str) -> set[str]:
    if packages.version(package) is None:
        return set()
    asked = importlib.metadata.requires(package) or []
    return {canonical(re.match(r"[\w.-]+", line)[0]) for line in asked}  # type: ignore[index]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def third_party(module: str) -> set[str]:
    """Top-level names outside the package that importing a module imports."""
    seen, waiting, found = set[str](), [module], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen or (file := source(name)) is None:
            continue
        seen.add(name)
        for imported in imports(ast.parse(file.read_text()).body):
            if imported.startswith("megatron_octo."):
                parts = imported.split(".")
                waiting += [".".join(parts[:count]) for count in range(2, len(parts) + 1)]
            elif imported.partition(".")[0] not in {*sys.stdlib_module_names, "megatron_octo"}:
                found.add(imported.partition(".")[0])
    return found


def source(module: str) -> Path | None:
    place = ROOT.joinpath(*module.split("."))
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.exists()), None)


def imports(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Try):
            yield from imports(node.body)


def test_whose_environment_this_is() -> None:
    assert (
        compatibility.tenant({"nemo-run": "0.11.1", "ray": "2.60.0"}) == "NeMo-Run's (extra `launch`, docs/cluster.md)"
    )
    assert (
        compatibility.tenant({"openrlhf": "0.11.2", "deepspeed": "0.19.6"})
        == "OpenRLHF's (extra `rl`, docs/rl.md#openrlhf)"
    )
    assert compatibility.tenant({"openrlhf": "0.11.2", "trl": "1.16.0"}) is None
