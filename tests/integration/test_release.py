"""What people install: a wheel and an sdist, made from this work tree, that run in an empty environment."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*words: object, cwd: Path) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist, and the wheel that was built from it."""
    directory = tmp_path_factory.mktemp("dist")
    tools = directory / "tools"
    run(sys.executable, "-m", "venv", tools, cwd=directory)
    run(tools / "bin" / "pip", "install", "--quiet", "build", cwd=directory)
    run(tools / "bin" / "python", "-m", "build", "--outdir", directory, ROOT, cwd=directory)
    return directory


def test_the_wheel_runs_in_an_empty_environment(released: Path, tmp_path: Path) -> None:
    [wheel] = released.glob("*.whl")
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    run(tmp_path / "venv" / "bin" / "pip", "install", "--quiet", wheel, cwd=tmp_path)
    octo = tmp_path / "venv" / "bin" / "megatron-octo"
    assert run(octo, "--version", cwd=tmp_path).strip() == wheel.name.split("-")[1]
    assert "llama32_3b.decay_long" in run(octo, "list", cwd=tmp_path)
    assert "TP" in run(octo, "show", "llama32_3b.stable", cwd=tmp_path)


def test_the_wheel_has_what_is_read_at_run_time(released: Path) -> None:
    [wheel] = released.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "megatron_octo"
    data = {file for file in package.rglob("*") if file.suffix in (".html", ".css", ".js", ".in")}
    assert len(data) >= 6
    assert {f"megatron_octo/{file.relative_to(package)}" for file in data} <= names
    assert not [name for name in names if name.startswith("tests/")]


def test_the_sdist_has_the_tests_and_the_locks(released: Path) -> None:
    [sdist] = released.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"requirements/cpu.txt", "tests/unit/test_imports.py", "README.md", "LICENSE"} <= names
