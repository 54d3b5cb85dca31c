"""`megatron-octo curate` looks before it begins: what would fail hours later is said at once, and nothing is begun."""

import subprocess
from pathlib import Path

import pytest
from chat_server import ChatServer
from tiny_curation import command, environment

pytestmark = pytest.mark.slow


def curate(out: Path, url: str, *words: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(out, *words),
        env=environment(url),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_all_that_would_fail_is_said_and_nothing_is_begun(tmp_path: Path) -> None:
    with ChatServer().running() as chat:
        gone = chat.url
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("no place for a document")
    words = ("--input", tmp_path / "nowhere", f"refinement.prompt_file={prompt}")
    for dry in ((), ("--dry-run",)):
        said = curate(tmp_path / "run", gone, *words, *dry)
        assert said.returncode == 2
        failed = [line.split("  ")[0] for line in said.stderr.splitlines() if line.startswith("FAIL")]
        assert failed == ["FAIL inputs", "FAIL annotation model", "FAIL refinement prompt", "FAIL refinement model"]
        assert said.stderr.splitlines()[-1] == (
            "error: nothing was begun: mend what FAIL names, and run the same command again"
        )
        assert ("reading_run" in said.stdout) is bool(dry)
        assert not (tmp_path / "run").exists()


def test_a_server_is_asked_for_its_models_and_nothing_else(tmp_path: Path) -> None:
    with ChatServer().running() as chat:
        said = curate(tmp_path / "run", chat.url, "--dry-run")
        assert said.returncode == 0, said.stderr
        assert said.stderr.count("has stand-in") == 2
        assert chat.delivered.total() == 0
    assert not (tmp_path / "run").exists()
