"""What an OpenRLHF run has below OUT/openrlhf: what its commands read, how far it has come, what a restart forgets. Files only."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_octo import artifacts
from megatron_octo.errors import ConfigError, OctoError
from megatron_octo.rl import openrlhf
from megatron_octo.rl import openrlhf_prompt_files as prompt_files
from megatron_octo.rl.config import ReinforcementLearning, RLJob
from megatron_octo.rl.openrlhf import Files, Stage
from megatron_octo.rl.openrlhf_checkpoints import Checkpoints
from megatron_octo.rl.openrlhf_metrics import EVENTS
from megatron_octo.rl.openrlhf_prompt_files import Remaining, Row
from megatron_octo.rl.stage import MODEL

TRAINED = "trained-"


@dataclass(frozen=True, kw_only=True)
class Work:
    job: RLJob
    out: Path

    @property
    def recipe(self) -> ReinforcementLearning:
        return self.job.recipe

    @property
    def directory(self) -> Path:
        return self.out / "openrlhf"

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(directory=self.directory / "checkpoints")

    def files(self, stage: Stage, *, prompts: str = "prompts.jsonl") -> Files:
        """What a stage's command reads and writes; `prompt_file` says which file of prompts."""
        work = self.directory.resolve()  # absolute: Ray's workers have other working directories
        return Files(
            model=self.job.model.resolve(),
            prompts=work / prompts,
            eval_sets=work / "eval.jsonl" if self.job.eval_sets else None,
            agent=work / "agent.py",
            checkpoints=work / "checkpoints",
            output=work / f"model-{stage.end_step}",
            tensorboard=(self.out / "logs" / EVENTS).resolve(),
        )

    def prompt_file(self, stage: Stage, sequence: Sequence[Row], *, remaining: Remaining) -> Path:
        """The file of a stage's prompts, made where the run is not in it yet; see `openrlhf_prompt_files.prepare`."""
        return prompt_files.prepare(
            self.directory,
            sequence,
            end_step=stage.end_step,
            prompts_per_step=self.recipe.prompts_per_step,
            newest=self.checkpoints.newest(),
            remaining=remaining,
        )

    def left(self) -> list[Stage]:
        """The stages that have something left to do."""
        return [stage for stage in openrlhf.stages(self.recipe) if not self._is_done(stage)]

    def require_resumable(self) -> None:
        """Raises `ConfigError` where an earlier try left no checkpoint to go on from, or one of another number of GPUs."""
        newest, gpus = self.checkpoints.newest(), self.recipe.needed_gpus.actor
        if newest is None:
            self._require_no_end()
        elif (before := self.checkpoints.gpus(newest)) not in (0, gpus):
            raise ConfigError(
                f"the policy had {before} GPUs when the checkpoint of step {newest} was saved, and its placement now gives it {gpus}; "
                f"DeepSpeed goes on with {before} only"
            )

    def _require_no_end(self) -> None:
        if ends := self._marks():
            raise ConfigError(
                f"{self.out} has made {max(ends)} steps and {self.checkpoints.directory} has no checkpoint to go on from; "
                "name another directory, or pass --force to start anew"
            )

    def _is_done(self, stage: Stage) -> bool:
        """The last one must also have written its model."""
        if stage.end_step == self.recipe.train_steps:
            return stage.end_step in self._marks()
        return (self.checkpoints.newest() or 0) >= stage.end_step

    @property
    def reached(self) -> int | None:
        """The step after which everything comes again; None where all of it does."""
        return self.checkpoints.newest() if self.left() else self.recipe.train_steps

    def forget_models(self) -> None:
        """Remove what earlier commands wrote: only the last one's counts."""
        for model in self.directory.glob("model-*"):
            shutil.rmtree(model)

    def note_end(self, stage: Stage, *, command: Sequence[str], log: Path) -> None:
        """Write down that the last stage's command is done.

        Raises:
            OctoError: a stage ended before the last step at which it saves.
        """
        newest, recipe = self.checkpoints.newest() or 0, self.recipe
        assert recipe.placement is not None
        # Prompts that were drawn and not trained on make steps fewer.
        exact = not (recipe.dynamic_sampling or recipe.placement.asynchronous)
        if exact and newest < stage.end_step - stage.end_step % recipe.save_interval:
            raise OctoError(
                f"OpenRLHF ended without an error after step {newest} of {stage.end_step}; see {log}, and run the same command again"
            )
        if stage.end_step == recipe.train_steps:
            artifacts.write_json(self.directory / f"{TRAINED}{stage.end_step}.json", {"command": command})

    def go_back(self, step: int) -> None:
        """Forget what came after a step's checkpoint. Raises `ConfigError` where that step has none."""
        self.checkpoints.forget_after(step)
        prompt_files.forget_from(self.directory, step)
        for end, file in self._marks().items():
            if end > step:
                file.unlink()

    @property
    def trained_model(self) -> Path:
        """Where the trained model is: a try that was killed may have moved it already."""
        written = self.directory / f"model-{self.recipe.train_steps}"
        return written if written.exists() else self.out / MODEL

    def keep_model(self) -> None:
        """Move the trained model to OUT/model, in the place of a shorter run's."""
        trained, model = self.trained_model, self.out / MODEL
        if trained != model:
            shutil.rmtree(model, ignore_errors=True)
            os.replace(trained, model)

    def _marks(self) -> Mapping[int, Path]:
        """By the step to which a run came and whose model it wrote."""
        return {int(file.stem.removeprefix(TRAINED)): file for file in self.directory.glob(f"{TRAINED}*.json")}
