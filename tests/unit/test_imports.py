"""The two tests that hold the house together: who may import whom, and recipes that need neither torch nor numpy."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import megatron_octo

PACKAGE = Path(megatron_octo.__file__).parent
ROOMS = ("curation", "tokenization", "training", "conversion", "rl", "evaluation", "plotting")
#: Modules at the top of the package stand beside the rooms and may be used by all of them; the command line is above them.
BASE = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
#: Nouns of a room: arithmetic on its config, and names and identities of files, as light as the config itself.
NOUNS = {f"{room}.config" for room in ROOMS} | {
    "curation.language_model.costs",
    "evaluation.benchmarks",
    "evaluation.rows",
    "evaluation.sources",
    "rl.openrlhf",
    "rl.placement",
    "training.activations",
    "training.estimate",
    "training.fusions",
    "training.gpu_environment",
    "training.memory",
    "training.blend",
    "training.parallelism",
    "training.precision",
    "training.recompute",
    "training.schedule",
    "tokenization.sources",
    "tokenization.identity",
    "tokenization.ranks",
    "tokenization.tokenizer_files",
}
#: Verbs that other rooms' verbs may use. Which questions a benchmark has must be one answer, for scores and for decontamination; it
#: is no noun, since it reads files and the hub.
LENT = {"evaluation.loading"}
#: What the files that answer at once may import beside the standard library (and yaml inside functions).
LIGHT = {"typer", "click", "rich", "yaml"}
HEAVY = ("torch", "numpy", "transformers", "megatron", "datasets", "trl", "tokenizers", "pyarrow", "matplotlib")


def source_files() -> list[str]:
    return [path.relative_to(PACKAGE).as_posix() for path in sorted(PACKAGE.rglob("*.py"))]


def module_name(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports(file: str) -> Iterator[str]:
    """Dotted names a file imports, anywhere in it; `from megatron_octo import units` counts as `megatron_octo.units`."""
    for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (_imported(node.module or "", alias.name) for alias in node.names)


def _imported(module: str, name: str) -> str:
    inside = (
        PACKAGE.parent / module.replace(".", "/") / f"{name}.py",
        PACKAGE.parent / module.replace(".", "/") / name,
    )
    return f"{module}.{name}" if any(path.exists() for path in inside) else module


def own_imports(file: str) -> list[str]:
    """Modules of this package, without the package's name."""
    return [name.removeprefix("megatron_octo.") for name in imports(file) if name.startswith("megatron_octo.")]


def allowed(module: str, imported: str) -> bool:
    """May `module` import `imported`? cli -> launch -> recipes -> nouns -> base; a room's verbs -> its own and any nouns."""
    floor = imported.partition(".")[0]
    if imported in BASE:
        return True
    if module in BASE:
        return False
    if imported in NOUNS:
        return True
    room = module.partition(".")[0]
    if module in NOUNS:
        return False
    if imported in LENT and room in ROOMS:
        return True
    return floor in {"cli": ("cli", "launch", "recipes"), "launch": ("launch", "recipes")}.get(room, (room,))


@pytest.mark.parametrize("file", source_files())
def test_arrows(file: str) -> None:
    module = module_name(file)
    wrong = [name for name in own_imports(file) if not allowed(module, name)]
    assert not wrong, f"megatron_octo/{file} may not import {', '.join(wrong)}"


@pytest.mark.parametrize(
    ("module", "imported", "answer"),
    [
        ("cli.recipes", "launch.explain.show", True),
        ("launch.study.graph", "recipes.tiny", True),
        ("recipes.tiny", "training.config", True),
        ("launch.explain.training", "training.estimate", True),
        ("training.run", "rl.config", True),
        ("evaluation.config", "rl.config", True),
        ("rl.run", "grading", True),
        ("rl.run", "evaluation.engines", False),
        ("curation.copies.unique_run", "evaluation.loading", True),
        ("curation.config", "evaluation.loading", False),
        ("recipes.tiny", "evaluation.loading", False),
        ("launch.study.graph", "training.run", False),
        ("launch.node.check", "cli.running", False),
        ("cli.stages", "training.run", False),
        ("recipes.tiny", "launch.study.graph", False),
        ("training.config", "training.loop", False),
        ("training.schedule", "recipes.corpora", False),
        ("config", "training.config", False),
    ],
)
def test_the_arrows_themselves(module: str, imported: str, answer: bool) -> None:
    assert allowed(module, imported) is answer


@pytest.mark.parametrize(
    "file",
    [
        file
        for file in source_files()
        if module_name(file) in NOUNS or file.startswith(("recipes/", "launch/explain/", "cli/")) or file == "config.py"
    ],
)
def test_light_files_import_light_things(file: str) -> None:
    tops = {name.partition(".")[0] for name in imports(file)} - {"megatron_octo"} - set(sys.stdlib_module_names)
    assert tops <= LIGHT, f"megatron_octo/{file} imports {', '.join(sorted(tops - LIGHT))}"


def run_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_recipe_loads_without_heavy_packages() -> None:
    code = f"""
import sys
sys.modules.update(dict.fromkeys({HEAVY!r}))  # None makes an import of them fail
from megatron_octo import recipes
for name in recipes.names():
    recipes.load(name)
print(len(recipes.names()))
"""
    assert int(run_python(code)) >= 60


def test_show_takes_less_than_a_second_without_torch() -> None:
    code = f"""
import sys, time
sys.modules.update(dict.fromkeys({HEAVY!r}))
from megatron_octo import recipes
from megatron_octo.launch.explain import show
show.describe_list(recipes.names())
show.explain(recipes.load("llama32_3b.decay_long"), nodes=8, gpus_per_node=8)
print(time.process_time())  # of the whole interpreter; wall time would measure the machine's other work
"""
    assert float(run_python(code)) < 1.0
