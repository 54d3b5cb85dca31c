"""A program of test_conversion.py: `megatron_logits.py STAGE...` writes the logits of each stage to STAGE/logits.npz.

What `python -m megatron_octo.training.logits` does for one, but Megatron, which one process can set up once, is imported once.
"""

import os
import sys
from pathlib import Path

import numpy as np

from megatron_octo.config import load
from megatron_octo.training import checkpoint, logits
from megatron_octo.training.config import ModelConfig


def main(stages: list[Path]) -> None:
    for stage in stages:
        child = os.fork()
        if not child:
            model = load(ModelConfig, stage / "model.json")
            token_ids, found = logits.compute(model, checkpoint.require_latest(stage))
            np.savez(stage / "logits.npz", token_ids=token_ids, logits=found)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0, stage


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
