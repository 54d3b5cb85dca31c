"""Training whose steps and last save take their time, as a large model's do: `python slowly.py STEP SAVE CONFIG OUT`, in seconds.

A save in the middle, which is one for a signal, takes SAVE; those at multiples of the interval take what they take.
"""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from megatron_octo import config, process
from megatron_octo.checksums import Checksum
from megatron_octo.training import loop, publishing, run
from megatron_octo.training.config import TrainingJob


def main() -> int:
    step_seconds, save_seconds = map(float, sys.argv[1:3])
    recipe = config.load(TrainingJob, Path(sys.argv[3])).recipe
    train_step, publish = loop.train_step, publishing.publish

    def slow_step(*given: object) -> object:
        time.sleep(step_seconds)
        return train_step(*given)

    def slow_publish(partial: Path, step: int, known: Mapping[str, Checksum]) -> int:
        if step % recipe.save_interval and step != recipe.train_iters:
            time.sleep(save_seconds)
        return publish(partial, step, known)

    loop.train_step, publishing.publish = slow_step, slow_publish
    return process.main(run.run, TrainingJob, argv=sys.argv[3:])


if __name__ == "__main__":
    raise SystemExit(main())
