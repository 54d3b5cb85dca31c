"""The memory a run was said to take, and what it takes: cases of benchmarks/memory.py, each a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import runs
from runs import On

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "memory.py"
#: Asked for. Fragments of the allocator and the CUDA context are in neither number.
WITHIN = 0.10


@pytest.mark.slow
@pytest.mark.parametrize("on", [On.GPU, On.TRANSFORMER_ENGINE])
@pytest.mark.parametrize("case", ["1B bf16", "1B bf16, layers again", "1B fp8"])
def test_memory_is_what_was_estimated(on: On, case: str) -> None:
    runs.need(on)
    if case.endswith("fp8") and on is On.GPU:
        pytest.skip("fp8 runs through Transformer Engine")
    start = [str(runs.WITHOUT_TRANSFORMER_ENGINE), "--file"] if on is On.GPU else []
    command = [sys.executable, *start, str(PROGRAM), "--case", case]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=runs.TIMEOUT_SECONDS, check=False)
    assert answer.returncode == 0, answer.stderr[-6000:]
    found = json.loads(answer.stdout.splitlines()[-1])
    assert found["estimated"] == pytest.approx(found["measured"], rel=WITHIN), found
