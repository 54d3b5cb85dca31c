"""The README shows only what runs: every shell line of it, but for those that .ci/run calls itself."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_training

from megatron_octo.recipes import tiny
from megatron_octo.tokenization import train_tokenizer
from megatron_octo.tokenization.config import TokenizerTraining
from megatron_octo.tokenization.identity import tokenizer_sha256

ROOT = Path(__file__).parents[2]
CALLED_BY_CI = ("make demo", "make test", "make test-slurm", ". .venv/bin/activate")
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines() if line not in CALLED_BY_CI]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as the README's reader has it: a text, tools and examples, and what the demo made."""
    directory = tmp_path_factory.mktemp("checkout")
    (directory / "my_text.jsonl").write_text('{"question": "1+1", "answer": "2"}\n')
    for there in ("tools", "examples"):
        (directory / there).symlink_to(ROOT / there)
    (directory / "runs" / "tiny" / "stable").mkdir(parents=True)
    (directory / "runs" / "tiny" / "world").mkdir()
    for questions in ("rl", "test"):
        (directory / "runs" / "tiny" / "world" / f"{questions}.jsonl").write_text(
            '{"question": "1+1", "answer": "2"}\n'
        )
    learn_from = (directory / "my_text.jsonl",)
    training = TokenizerTraining(
        inputs=learn_from, text_field="answer", vocab_size=258, max_documents_per_input=1, model_max_length=64
    )
    train_tokenizer.run(training, directory / "runs" / "tiny" / "tokenizer", False)
    for seed, corpus in enumerate(dict.fromkeys([*tiny.stable().corpora, *tiny.decay_long().corpora])):
        tiny_training.write_shards(
            directory / "runs" / "tiny" / "shards", corpus, windows=400, seed=seed,
            tokenizer=tokenizer_sha256(directory / "runs" / "tiny" / "tokenizer"),
        )  # fmt: skip
    return directory


@pytest.mark.parametrize("line", LINES)
def test_readme_line_runs(line: str, checkout: Path) -> None:
    """In the README's order: later lines read what earlier ones made."""
    command = f"{Path(sys.executable).parent}/{line}"
    run = subprocess.run(command, shell=True, cwd=checkout, capture_output=True, text=True, timeout=400)
    assert run.returncode == 0, run.stderr
    assert (run.stdout + run.stderr).strip()


def test_readme_names_what_ci_calls() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    for target in ("demo", "test"):
        assert re.search(rf"^make .*\b{target}\b(?!-)", ci, flags=re.MULTILINE)
        assert any(f"make {target}" in block for block in BLOCKS)


def test_contributing_recipe_loads(tmp_path: Path) -> None:
    """The recipe that CONTRIBUTING.md shows is a recipe."""
    source = re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
    assert source is not None
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / "runs.py").write_text(source[1])
    command = [f"{Path(sys.executable).parent}/megatron-octo", "show", "my_lab.runs:ablation_7"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "name: ablation_7" in run.stdout
    assert "weight: 0.3" in run.stdout
