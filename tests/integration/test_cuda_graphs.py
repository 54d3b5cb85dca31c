"""Why CUDA graphs are not offered (docs/training.md): Megatron-Core's graphs per layer compute wrong gradients, without an error.

When this fails, Megatron-Core has mended it (NVIDIA/Megatron-LM#4433, #5975), and they can be looked at again.
"""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("layer_graphs.py")


def test_a_gradient_overwrites_what_the_first_layer_keeps() -> None:
    ended = subprocess.run([sys.executable, str(PROGRAM)], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert json.loads(ended.stdout.splitlines()[-1]) == {
        "kept for the first layer's backward pass": True,
        "overwritten by the gradient that enters the last": True,
    }
