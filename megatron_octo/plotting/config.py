"""What a report is. No matplotlib here."""

import os.path
from dataclasses import dataclass
from pathlib import Path

from megatron_octo.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ReportedModel:
    """One model of a study: its training run, its base evaluation and its RL runs, one per seed."""

    name: str
    #: Training stage directory; None for a published model that the study did not train.
    training: Path | None
    #: Evaluation stage directory of the base model.
    base_evaluation: Path
    #: RL stage directories, one per seed, and the evaluation of each one's result in the same order.
    rl: tuple[Path, ...] = ()
    rl_evaluations: tuple[Path, ...] = ()

    @property
    def stages(self) -> tuple[Path, ...]:
        trained = () if self.training is None else (self.training,)
        return (*trained, self.base_evaluation, *self.rl, *self.rl_evaluations)


@dataclass(frozen=True, kw_only=True)
class Report:
    """A self-contained HTML page with figures, for one study. Stages that did not finish yet are named as missing."""

    title: str
    #: The command that repeats the study.
    command: str
    #: The first is the control: the gains of the others are compared with its gain.
    models: tuple[ReportedModel, ...]
    #: Further stage directories whose time and versions are listed (world, tokenizer, shards, conversions).
    stages: tuple[Path, ...] = ()
    #: Stage directory of the search for benchmark questions in the training corpora; None where nobody searched.
    overlap: Path | None = None
    #: Sample questions shown, each answered by every model before and after RL.
    num_samples: int = 3

    def __post_init__(self) -> None:
        names = [model.name for model in self.models]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"a report needs models with different names, not [{', '.join(names)}]")

    @property
    def all_stages(self) -> tuple[Path, ...]:
        """Every stage directory once, in the order of the study: world and shards, then model by model."""
        overlap = () if self.overlap is None else (self.overlap,)
        return tuple(dict.fromkeys((*self.stages, *overlap, *(path for model in self.models for path in model.stages))))

    def stage_name(self, stage: Path) -> str:
        """A stage's path below the directory that holds the whole study."""
        root = os.path.commonpath([path.absolute().parent for path in self.all_stages])
        return str(stage.absolute().relative_to(root))


@dataclass(frozen=True, kw_only=True)
class PublishedCurves:
    """A page of RL curves that others logged: the paper's, where the directory holds its exports, or anyone's."""

    #: Searched with all folders below it for CSV exports of Weights & Biases and for `metrics.jsonl` of RL stages.
    curves: Path
