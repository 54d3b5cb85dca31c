"""What autograd keeps of a forward pass, against the estimate: byte by byte, for every layout, precision and recomputation."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("kept_tensors.py")
#: A number that recomputed attention keeps per layer: the kind of its mask.
ATTENTION_AGAIN = {"attention again": 4 * 4}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "ranks"), [("one rank", 1), ("TP 2", 2), ("TP 2, sequence parallel", 2), ("CP 2", 2)]
)
def test_kept_tensors_are_those_of_the_estimate(layout: str, ranks: int) -> None:
    counted = [json.loads(line) for line in run(layout, ranks).splitlines()]
    assert len(counted) == 36
    wrong = [
        (name, found, estimated)
        for name, found, estimated in counted
        if found != estimated + ATTENTION_AGAIN.get(name.rpartition(", ")[2], 0)
    ]
    assert not wrong


def run(layout: str, ranks: int) -> str:
    """What the last rank prints."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = os.environ | {"OMP_NUM_THREADS": "1", "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), layout],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": str(port)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(ranks)
    ]  # fmt: skip
    try:
        ended = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, ended, strict=True):
        assert process.returncode == 0, errors
    return ended[-1][0]
