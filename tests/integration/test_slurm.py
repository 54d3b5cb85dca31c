"""Tokenisation and conversion as Slurm arrays, on real Slurm daemons: two nodes with their own network and processes on this
machine.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_families

from megatron_octo import artifacts
from megatron_octo.shards import open_corpus
from megatron_octo.tokenization import train_tokenizer
from megatron_octo.tokenization.config import TokenizerTraining

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
CLUSTER = HERE / "mini_slurm.sh"


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """Environment for Slurm's clients; the cluster is taken down afterwards."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("the throw-away Slurm cluster needs root on Debian")
    settings = os.environ | {
        "MINI_SLURM_ACCOUNTING": "0",
        "MINI_SLURM_SHARE_TMP": "1",  # jobs read and write below pytest's directory, which is in /tmp
        "MINI_SLURM_CPUS": "2",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    subprocess.run(["bash", CLUSTER, "down"], env=settings, check=True, capture_output=True)
    started = subprocess.run(["bash", CLUSTER, "up"], env=settings, capture_output=True, text=True, timeout=300)
    if shutil.which("slurmctld") is None:
        pytest.skip(f"Slurm could not be installed: {started.stderr[-300:]}")
    assert started.returncode == 0, started.stderr
    exported = subprocess.run(["bash", CLUSTER, "env"], env=settings, check=True, capture_output=True, text=True).stdout
    try:
        yield settings | {"SLURM_CONF": exported.strip().partition("=")[2]}
    finally:
        subprocess.run(["bash", CLUSTER, "down"], env=settings, check=True, capture_output=True)


def wait_for(jobs: list[str], slurm: dict[str, str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        asked = subprocess.run(
            ["squeue", "--noheader", "--jobs", ",".join(jobs)], env=slurm, capture_output=True, text=True
        )
        if not asked.stdout.strip():
            return
        time.sleep(0.5)
    pytest.fail(f"jobs {jobs} did not end: {asked.stdout}")


def submit(example: str, arguments: list[str], slurm: dict[str, str], logs: Path) -> None:
    settings = slurm | {"TASKS": "3", "CPUS": "1", "LOGS": str(logs)}
    submitted = subprocess.run(
        [EXAMPLES / example, *arguments], env=settings, check=True, capture_output=True, text=True
    )
    wait_for(submitted.stdout.split(), slurm)


def test_an_array_makes_what_one_machine_makes(slurm: dict[str, str], tmp_path: Path) -> None:
    for number in range(5):
        rows = (json.dumps({"text": f"document {number} {row} " * (row % 9 + 1)}) + "\n" for row in range(200))
        (tmp_path / f"text{number}.jsonl").write_text("".join(rows))
    tokenizer = tmp_path / "tokenizer"
    learn_from = (tmp_path / "text0.jsonl",)
    training = TokenizerTraining(inputs=learn_from, vocab_size=300, max_documents_per_input=100, model_max_length=64)
    train_tokenizer.run(training, tokenizer, False)
    asked = ["web", "--input", str(tmp_path / "text*.jsonl"), "--tokenizer", str(tokenizer)]
    command = ["megatron-octo", "tokenize", *asked, "--out", str(tmp_path / "alone")]
    alone = subprocess.run(command, env=slurm, capture_output=True)
    assert alone.returncode == 0, alone.stderr.decode()

    submit("tokenize_slurm.sh", [*asked, "--out", str(tmp_path / "array")], slurm, tmp_path)

    logs = "".join(path.read_text() for path in sorted(tmp_path.glob("tokenize-*.log")))
    assert artifacts.finished(tmp_path / "array")["outputs"] == artifacts.finished(tmp_path / "alone")["outputs"], logs
    assert open_corpus(tmp_path / "array").manifest.documents == 1000
    assert "are missing: other tasks make them" in logs


def test_an_array_converts_what_one_machine_converts(slurm: dict[str, str], tmp_path: Path) -> None:
    source = tiny_families.make(tmp_path / "llama", "llama-tied")
    asked = ["from-hf", str(source)]
    few = ["--max-shard-size", "200kB", "--check"]
    alone = subprocess.run(
        ["megatron-octo", "convert", *asked, tmp_path / "alone", *few], env=slurm, capture_output=True
    )
    assert alone.returncode == 0, alone.stderr.decode()

    submit("convert_slurm.sh", [*asked, str(tmp_path / "array"), *few], slurm, tmp_path)

    logs = [path.read_text() for path in sorted(tmp_path.glob("convert-*.log"))]
    assert artifacts.finished(tmp_path / "array")["outputs"] == artifacts.finished(tmp_path / "alone")["outputs"], logs
    assert ["error" in log for log in logs] == [False, False, False]
    assert sum("all equal" in log for log in logs) == 1
