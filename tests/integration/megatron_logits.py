"""A program of test_conversion.py: `megatron_logits.py STAGE...` writes the logits of each stage to STAGE/logits.npz.

What `python -m megatron_octo.training.logits` does for one, but Megatron, which one process can set up once, is imported once.
"""

import os
import sys
from pathlib import Path

import numpy as np

from megatron_octo.training import logits


def main(stages: list[Path]) -> None:
    for stage in stages:
        child = os.fork()
        if not child:
            token_ids, found = logits.compute(stage)
            np.savez(stage / "logits.npz", token_ids=token_ids, logits=found)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0, stage


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
