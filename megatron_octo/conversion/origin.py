"""Which checkpoint a source means, which model it is of, and where the model's Hugging Face files are.

STAGE/model.json, STAGE/checkpoints/{latest, iter_0000100/}     a training or import stage of ours, finished or not
DIR/latest_checkpointed_iteration.txt, DIR/iter_0000100/        what Megatron-LM saves
iter_0000100/{.metadata, common.pt, __0_0.distcp, ...}          one checkpoint of either, or of another tool
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo.config import load
from megatron_octo.conversion import hf_config, megatron_lm, torch_dist
from megatron_octo.conversion.families import CONFIG_FILE
from megatron_octo.errors import ArtifactError, ConfigError
from megatron_octo.training.config import ModelConfig

MODEL_FILE = "model.json"
#: Where an import keeps the files of its source that are no weights.
KEPT = "hf"
LINEAGE_FILE = "lineage.json"
_POINTER = "latest"
_MEGATRON_LM_POINTER = "latest_checkpointed_iteration.txt"
#: Written last: a checkpoint with it is complete.
_COMPLETE = "metadata.json"


@dataclass(frozen=True)
class Origin:
    checkpoint: Path
    model: ModelConfig
    #: The stage of ours it belongs to.
    stage: Path | None
    #: Hugging Face directory of the model, without its weights where an import kept it.
    reference: Path | None

    @property
    def step(self) -> int | None:
        """Of the run that wrote it; None where its name does not tell."""
        number = self.checkpoint.name.removeprefix("iter_")
        return int(number) if number.isdecimal() else None


def find(source: Path, *, reference: Path | None = None) -> Origin:
    """What to convert.

    Args:
        source: a stage, a save directory of Megatron-LM, or a checkpoint of either.
        reference: Hugging Face directory of the same model; it comes before what the lineage tells, and has to tell the
            architecture where a checkpoint of another tool does not.
    Raises:
        ArtifactError: there is no complete checkpoint.
        ConfigError: its model is unknown, or none that can be converted.
    """
    checkpoint = _checkpoint(source)
    stage = checkpoint.absolute().parent.parent
    if (stage / MODEL_FILE).is_file():
        return Origin(checkpoint, load(ModelConfig, stage / MODEL_FILE), stage, reference or _kept(stage))
    return Origin(checkpoint, _model_of_others(checkpoint, reference), None, reference)


def ancestors(stage: Path) -> list[dict[str, Any]]:
    """The runs and the imported model before a stage, the first one first; none for an import."""
    found: list[dict[str, Any]] = lineage(stage).get("ancestors", [])
    return found


def lineage(stage: Path) -> dict[str, Any]:
    """The `lineage.json` of a training stage; empty for an import."""
    file = stage / LINEAGE_FILE
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return found


def _checkpoint(source: Path) -> Path:
    if (source / _COMPLETE).is_file() or (source / ".metadata").is_file():
        return source
    if (source / "checkpoints").is_dir():
        return _newest(source / "checkpoints")
    if (source / _MEGATRON_LM_POINTER).is_file():
        return _newest_of_megatron_lm(source)
    if any(source.glob("mp_rank_*")):
        raise _old_format(source)
    raise ArtifactError(
        f"{source} is no checkpoint (it has no .metadata), no stage (no checkpoints/) and no save directory of Megatron-LM (no "
        f"{_MEGATRON_LM_POINTER}); name one of these"
    )


def _newest(checkpoints: Path) -> Path:
    """What `latest` names, or the newest complete one where a killed run left that behind."""
    pointer = checkpoints / _POINTER
    named = checkpoints / pointer.read_text().strip() if pointer.is_file() else None
    if named is not None and (named / _COMPLETE).is_file():
        return named
    complete = sorted(path.parent for path in checkpoints.glob(f"iter_*/{_COMPLETE}"))
    if not complete:
        raise ArtifactError(
            f"{checkpoints.parent} has no complete checkpoint yet; train or import the model there first"
        )
    return complete[-1]


def _newest_of_megatron_lm(directory: Path) -> Path:
    pointer = directory / _MEGATRON_LM_POINTER
    name = pointer.read_text().strip()
    checkpoint = directory / (f"iter_{int(name):07d}" if name.isdecimal() else name)
    if any(checkpoint.glob("mp_rank_*")):
        raise _old_format(checkpoint)
    if not (checkpoint / ".metadata").is_file():
        there = ", ".join(sorted(path.parent.name for path in directory.glob("*/.metadata"))) or "none"
        raise ArtifactError(
            f"{pointer} names {checkpoint.name}, which is not there or not complete; there are: {there}"
        )
    return checkpoint


def _old_format(checkpoint: Path) -> ArtifactError:
    return ArtifactError(
        f"{checkpoint} is in Megatron-LM's format torch (mp_rank_*); load it there and save it with --ckpt-format torch_dist"
    )


def _kept(stage: Path) -> Path | None:
    """The Hugging Face files an import kept: this stage's own, or those of the nearest one before it that is still there."""
    stages = [stage, *(Path(ancestor["directory"]) for ancestor in reversed(ancestors(stage)))]
    return next((place / KEPT for place in stages if (place / KEPT / CONFIG_FILE).is_file()), None)


def _model_of_others(checkpoint: Path, reference: Path | None) -> ModelConfig:
    """From Megatron-LM's arguments, or from the reference for a checkpoint of a tool that keeps none."""
    described = hf_config.read_config(reference) if reference is not None else None
    has_common = (checkpoint / torch_dist.COMMON).is_file()
    args = torch_dist.common(checkpoint).get("args") if has_common else None
    if args is not None:
        vocab_size = described.vocab_size if described is not None else None
        return megatron_lm.model(args, vocab_size=vocab_size, where=str(checkpoint))
    if described is None:
        raise ConfigError(
            f"{checkpoint} does not say of which model it is: neither {MODEL_FILE} beside its checkpoints/ nor args in its "
            "common.pt; name the Hugging Face directory of its model with --reference"
        )
    return described
