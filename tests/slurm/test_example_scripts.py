"""Tokenisation and conversion as Slurm arrays, by the scripts in examples/."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_families
from daemons import MiniSlurm

from megatron_octo import artifacts
from megatron_octo.shards import open_corpus
from megatron_octo.tokenization import train_tokenizer
from megatron_octo.tokenization.config import TokenizerTraining

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def _on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """`megatron-octo`, here and in the jobs."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def submit(example: str, arguments: list[str], slurm: MiniSlurm, logs: Path) -> None:
    settings = os.environ | {"TASKS": "3", "CPUS": "1", "LOGS": str(logs)}
    said = subprocess.run(
        [EXAMPLES / example, *arguments], env=settings, check=True, capture_output=True, text=True
    ).stdout
    slurm.wait_for(said.split())


def test_an_array_makes_what_one_machine_makes(slurm: MiniSlurm, tmp_path: Path) -> None:
    for number in range(5):
        rows = (json.dumps({"text": f"document {number} {row} " * (row % 9 + 1)}) + "\n" for row in range(200))
        (tmp_path / f"text{number}.jsonl").write_text("".join(rows))
    tokenizer = tmp_path / "tokenizer"
    learn_from = (tmp_path / "text0.jsonl",)
    training = TokenizerTraining(inputs=learn_from, vocab_size=300, max_documents_per_input=100, model_max_length=64)
    train_tokenizer.run(training, tokenizer, False)
    asked = ["web", "--input", str(tmp_path / "text*.jsonl"), "--tokenizer", str(tokenizer)]
    command = ["megatron-octo", "tokenize", *asked, "--out", str(tmp_path / "alone")]
    alone = subprocess.run(command, capture_output=True)
    assert alone.returncode == 0, alone.stderr.decode()

    submit("tokenize_slurm.sh", [*asked, "--out", str(tmp_path / "array")], slurm, tmp_path)

    logs = "".join(path.read_text() for path in sorted(tmp_path.glob("tokenize-*.log")))
    assert artifacts.finished(tmp_path / "array")["outputs"] == artifacts.finished(tmp_path / "alone")["outputs"], logs
    assert open_corpus(tmp_path / "array").manifest.documents == 1000
    assert "are missing: other tasks make them" in logs


def test_an_array_converts_what_one_machine_converts(slurm: MiniSlurm, tmp_path: Path) -> None:
    source = tiny_families.make(tmp_path / "llama", "llama-tied")
    asked = ["from-hf", str(source)]
    few = ["--max-shard-size", "200kB", "--check"]
    alone = subprocess.run(["megatron-octo", "convert", *asked, tmp_path / "alone", *few], capture_output=True)
    assert alone.returncode == 0, alone.stderr.decode()

    submit("convert_slurm.sh", [*asked, str(tmp_path / "array"), *few], slurm, tmp_path)

    logs = [path.read_text() for path in sorted(tmp_path.glob("convert-*.log"))]
    assert artifacts.finished(tmp_path / "array")["outputs"] == artifacts.finished(tmp_path / "alone")["outputs"], logs
    assert ["error" in log for log in logs] == [False, False, False]
    assert sum("all equal" in log for log in logs) == 1
