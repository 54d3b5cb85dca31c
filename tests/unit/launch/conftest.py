import os
from pathlib import Path

import pytest


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What Slurm answers: `ID|STATE|REASON|NODES|START` lines of a file."""
    (tmp_path / "bin").mkdir()
    answer = tmp_path / "answer"
    answer.write_text("")
    (tmp_path / "bin" / "squeue").write_text(f"#!/bin/sh\ncat {answer}\n")
    (tmp_path / "bin" / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return answer
