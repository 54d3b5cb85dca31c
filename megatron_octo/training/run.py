"""A training run as a process, one per rank: `python -m megatron_octo.training.run JOB.json OUT`.

Started by the local launcher, torchrun or srun, which describe the ranks in RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
"""

from pathlib import Path

from megatron_octo import process
from megatron_octo.training import phase
from megatron_octo.training.config import TrainingJob


def run(job: TrainingJob, out: Path, force: bool) -> None:
    """Train one phase, or continue it from its newest checkpoint."""
    phase.run(job, out, force)


if __name__ == "__main__":
    raise SystemExit(process.main(run, TrainingJob))
