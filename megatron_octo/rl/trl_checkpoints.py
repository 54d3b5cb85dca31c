"""The checkpoints TRL leaves below OUT/checkpoints, counted in our steps."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from megatron_octo.rl.restart import require_kept

#: Written last into a checkpoint, so its presence means that the checkpoint is whole.
TRAINER_STATE = "trainer_state.json"


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """TRL counts optimizer updates; a step of ours is `updates_per_step` of them."""

    directory: Path
    updates_per_step: int

    def steps(self) -> list[int]:
        """Steps with a whole checkpoint, oldest first."""
        return sorted(self._step(file.parent) for file in self.directory.glob(f"checkpoint-*/{TRAINER_STATE}"))

    def of(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self.directory / f"checkpoint-{step * self.updates_per_step}"

    def forget_after(self, step: int) -> None:
        """Remove the later checkpoints. Raises `ConfigError` where the step itself has none."""
        require_kept(step, self.steps(), self.directory)
        for checkpoint in self.directory.glob("checkpoint-*"):
            if self._step(checkpoint) > step:
                shutil.rmtree(checkpoint)

    def _step(self, checkpoint: Path) -> int:
        return int(checkpoint.name.removeprefix("checkpoint-")) // self.updates_per_step
