"""A published data set straight from the hub: its files of one commit, each fetched once, and the list kept for a next try."""

import json
import os
import subprocess
import sys
from pathlib import Path

import hub_server

from megatron_octo import artifacts
from megatron_octo.config import dumps
from megatron_octo.curation import documents
from megatron_octo.curation.config import Importing, Published

TURNS = [{"role": "user", "content": "What is 1+1?"}, {"role": "assistant", "content": "2"}]
ULTRACHAT = "HuggingFaceH4/ultrachat_200k"


def run(tmp_path: Path, endpoint: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: huggingface_hub reads its environment when it is imported."""
    (tmp_path / "config.json").write_text(dumps(Importing(corpus=Published.ULTRACHAT_200K, parts=2)))
    command = [sys.executable, "-m", "megatron_octo.curation.data_sets.importing_run", "config.json", "out"]
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "TMPDIR": str(tmp_path / "tmp")}
    return subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def write(file: Path, *rows: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_files_come_from_the_hub(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    data = tmp_path / "hub" / ULTRACHAT
    write(data / "README.md", "no data")
    # The larger file goes to the first part, which is made before the other fails.
    write(data / "data" / "train_sft-00000.jsonl", {"messages": TURNS, "prompt_id": 1_000 * "a"})
    write(data / "data" / "train_sft-00001.jsonl", {"messages": TURNS, "prompt_id": "b"}, {"msgs": TURNS})
    write(data / "data" / "test_sft-00000.jsonl", {"messages": TURNS, "prompt_id": "c"})
    with hub_server.serving(tmp_path / "hub") as (endpoint, fetched):
        failed = run(tmp_path, endpoint)
        assert failed.returncode == 2, failed.stderr
        assert "data/train_sft-00001.jsonl, row 2 has the columns msgs; expected are messages" in failed.stderr
        write(data / "data" / "train_sft-00001.jsonl", {"messages": TURNS, "prompt_id": "b"})
        write(data / "data" / "train_sft-00002.jsonl", {"messages": TURNS, "prompt_id": "came later"})
        before = len(fetched)
        done = run(tmp_path, endpoint)
        assert done.returncode == 0, done.stderr
        assert fetched[before:] == ["data/train_sft-00001.jsonl"]
    found = [document for part in (0, 1) for document in documents.read(tmp_path / "out", part)]
    assert [document.text for document in found] == ["User:What is 1+1?\nAssistant:2"] * 2
    assert {document.id for document in found} == {
        f"ultrachat_200k/{ULTRACHAT}/data/train_sft-0000{number}.jsonl/1" for number in (0, 1)
    }
    assert artifacts.finished(tmp_path / "out")["counts"]["kept_documents"] == 2
    assert not list((tmp_path / "tmp").glob("tmp*"))
