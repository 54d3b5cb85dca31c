"""The checkpoints DeepSpeed leaves for OpenRLHF: a folder per role, a folder per step in it, and the name of the newest."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from megatron_octo.rl.restart import require_kept

TAG = "global_step"
#: Written when a checkpoint is whole; OpenRLHF goes on from the one it names.
LATEST = "latest"
POLICY = "_actor"


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    directory: Path

    def steps(self) -> list[int]:
        """Steps whose checkpoints are there, in order."""
        numbers = (tag.name.removeprefix(TAG) for tag in (self.directory / POLICY).glob(f"{TAG}*"))
        return sorted(int(number) for number in numbers if number.isdecimal())

    def newest(self) -> int | None:
        """The step OpenRLHF would go on from."""
        latest = self.directory / POLICY / LATEST
        return int(latest.read_text().strip().removeprefix(TAG)) if latest.exists() else None

    def of(self, step: int) -> Path:
        """The policy's checkpoint of a step."""
        return self.directory / POLICY / f"{TAG}{step}"

    def gpus(self, step: int) -> int:
        """How many the policy had at a step: DeepSpeed leaves a file of optimizer states for each."""
        return len(list(self.of(step).glob("*zero_pp_rank_*_optim_states.pt")))

    def forget_after(self, step: int) -> None:
        """Remove the later checkpoints of all roles. Raises `ConfigError` where the step itself has none."""
        kept = self.steps()
        require_kept(step, kept, self.directory)
        for role in self.directory.iterdir():
            for later in (saved for saved in kept if saved > step):
                shutil.rmtree(role / f"{TAG}{later}", ignore_errors=True)
            (role / LATEST).write_text(f"{TAG}{step}")
