"""Megatron `torch_dist` checkpoints: what is in one, where it lies, and loading it at any layout. Saving is in saving.py.

    OUT/checkpoints/iter_0000100/    one complete checkpoint, with the checksums of its files
    OUT/checkpoints/latest           the name of the newest one
    OUT/checkpoints/.iter_*          being written, or being removed; nothing to anybody

A checkpoint holds the model, the optimizer and `progress`, which is all a run needs to continue: data order and learning rate
are functions of it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.serialization import get_default_load_sharded_strategy
from megatron.core.dist_checkpointing.strategies.fully_parallel import FullyParallelLoadStrategyWrapper
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.utils import unwrap_model

from megatron_octo import checksums
from megatron_octo.config import to_dict
from megatron_octo.errors import ArtifactError, ConfigError
from megatron_octo.training import megatron, torch_adam
from megatron_octo.training.config import ModelConfig
from megatron_octo.training.publishing import LATEST, checkpoint_name, complete_ones, named_latest

#: Reshardable over every axis; Megatron-LM's own choice. The library's default cannot be saved in 0.16.1.
OPTIMIZER_FORMAT = {
    "distrib_optim_sharding_type": "fully_reshardable",
    "chained_optim_avoid_prefix": True,
    "singleton_local_shards": False,
}
#: The file of a checkpoint that stands for all of it.
CHECKSUMS = checksums.FILE
#: In a checkpoint's content metadata: which of the two optimizer formats it has. They cannot be loaded by each other.
DISTRIBUTED = "use_distributed_optimizer"


@dataclass
class Progress:
    """Where a run is. `step` and `tokens` count this phase; `total_tokens` includes the phases before it."""

    step: int = 0
    tokens: int = 0
    total_tokens: int = 0
    #: Steps of this phase whose update was left out.
    skipped_steps: int = 0
    #: What a gradient's norm is compared with to be called a spike; the oldest first.
    recent_grad_norms: list[float] = field(default_factory=list)


def latest(stage_directory: Path) -> Path | None:
    """The newest complete checkpoint of a training or import stage, None before the first."""
    checkpoints = stage_directory / "checkpoints"
    name = named_latest(checkpoints)
    if name is None:
        return None
    checkpoint = checkpoints / name
    if not (checkpoint / "metadata.json").exists():
        raise ArtifactError(
            f"{checkpoints / LATEST} names {name}, which is not there or not complete{_other_choices(checkpoint)}"
        )
    return checkpoint


def require_latest(stage_directory: Path) -> Path:
    """The newest complete checkpoint. Raises `ArtifactError` where there is none."""
    checkpoint = latest(stage_directory)
    if checkpoint is None:
        raise ArtifactError(f"{stage_directory} has no checkpoint yet; train or import the model there first")
    return checkpoint


def at_step(stage_directory: Path, step: int) -> Path:
    """The checkpoint of a given step. Raises `ArtifactError` with those that exist."""
    checkpoint = stage_directory / "checkpoints" / checkpoint_name(step)
    if not (checkpoint / "metadata.json").exists():
        there = ", ".join(complete_ones(stage_directory / "checkpoints"))
        raise ArtifactError(f"{stage_directory} has no {checkpoint.name}; it has: {there or 'none'}")
    return checkpoint


def require_same_model(stage_directory: Path, model: ModelConfig) -> None:
    """Raises `ConfigError` where a stage's weights belong to another decoder than the recipe's.

    Megatron-Core loads any that fit in shape: another epsilon or RoPE trains without a word. How far positions go is free.
    """
    described = stage_directory / "model.json"
    if not described.exists():
        return
    theirs, ours = json.loads(described.read_text()), to_dict(model)
    differing = [
        name for name in ours if name != "max_position_embeddings" and theirs.get(name, ours[name]) != ours[name]
    ]
    if differing:
        said = ", ".join(f"{name} {theirs[name]} (the recipe has {ours[name]})" for name in differing)
        raise ConfigError(
            f"the model in {stage_directory} has {said}; start from a checkpoint of the recipe's model, or set model.{differing[0]}="
            f"{theirs[differing[0]]}"
        )


def known_sha256(stage_directory: Path) -> dict[str, str]:
    """sha256 of the checkpoints' files by path relative to the stage: computed when they were written."""
    checkpoints = stage_directory / "checkpoints"
    return {
        str((checkpoints / name / file).relative_to(stage_directory)): checksum.sha256
        for name in complete_ones(checkpoints)
        for file, checksum in (checksums.read(checkpoints / name) or {}).items()
    }


def read_progress(checkpoint: Path) -> Progress:
    """The progress of a checkpoint that a training run wrote, without loading anything else."""
    return Progress(**dist_checkpointing.load_common_state_dict(str(checkpoint))["progress"])


def state_dict(model: megatron.Model, optimizer: MegatronOptimizer, *, is_loading: bool) -> dict[str, Any]:
    """What is stored where: the sharded parts of model and optimizer, and which kind of optimizer it is."""
    metadata = OPTIMIZER_FORMAT | {"dp_cp_group": megatron.data_parallel_group()}
    state = _model_state(unwrap_model(model), metadata)
    if not is_loading:
        torch_adam.prepare_save(megatron.inner_optimizers(optimizer))
    state["optimizer"] = optimizer.sharded_state_dict(dict(state), is_loading=is_loading, metadata=metadata)
    return state


def content_metadata(optimizer: MegatronOptimizer) -> dict[str, Any]:
    return OPTIMIZER_FORMAT | {DISTRIBUTED: _is_distributed(optimizer)}


def load(checkpoint: Path, *, model: megatron.Model, optimizer: MegatronOptimizer) -> Progress:
    """Continue a run: weights, optimizer state and progress. Returns the progress.

    Raises:
        ArtifactError: a file is damaged, or the checkpoint is of another kind of optimizer or has none.
    """
    _refuse_damaged(checkpoint, must_have_checksums=True)
    _refuse_other_optimizer(checkpoint, optimizer)
    parts = megatron.inner_optimizers(optimizer)
    torch_adam.prepare_load(parts)
    state = _load(state_dict(model, optimizer, is_loading=True), checkpoint)
    for key, gpt in zip(_model_keys(model), unwrap_model(model), strict=True):
        gpt.load_state_dict(state[key])
    optimizer.load_state_dict(state["optimizer"])
    torch_adam.finish_load(parts)
    return Progress(**state["progress"])


def load_weights(checkpoint: Path, *, model: megatron.Model, optimizer: MegatronOptimizer) -> None:
    """Start from another run's or an imported model's weights with fresh optimizer state."""
    load_gpt(checkpoint, unwrap_model(model))
    optimizer.reload_model_params()


def load_gpt(checkpoint: Path, gpts: Sequence[GPTModel]) -> None:
    """Weights alone into a bare model, of this rank's shards.

    Raises:
        ArtifactError: a file is damaged, or the checkpoint lacks weights, which are named.
    """
    _refuse_damaged(checkpoint, must_have_checksums=False)
    state = _load({key: _without_extra_state(value) for key, value in _model_state(gpts).items()}, checkpoint)
    missing = [
        name
        for key, gpt in zip(_model_keys(gpts), gpts, strict=True)
        for name in gpt.load_state_dict(state[key], strict=False).missing_keys
        if not name.endswith("_extra_state")
    ]
    if missing:
        raise ArtifactError(f"{checkpoint} lacks {', '.join(missing)}")


def _model_keys(chunks: Sequence[Any]) -> list[str]:
    return ["model"] if len(chunks) == 1 else [f"model{index}" for index in range(len(chunks))]


def _model_state(gpts: Sequence[GPTModel], metadata: dict[str, Any] | None = None) -> dict[str, Any]:
    return {key: gpt.sharded_state_dict(metadata=metadata) for key, gpt in zip(_model_keys(gpts), gpts, strict=True)}


def _without_extra_state(weights: dict[str, Any]) -> dict[str, Any]:
    """Transformer Engine's extra state is empty here, and an imported checkpoint has none."""
    return {key: value for key, value in weights.items() if not key.endswith("_extra_state")}


def _load(state: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    """Each data-parallel rank reads its share of the bytes and gives the others theirs."""
    strategy = FullyParallelLoadStrategyWrapper(
        get_default_load_sharded_strategy(str(checkpoint)), megatron.data_parallel_group()
    )
    try:
        loaded: dict[str, Any] = dist_checkpointing.load(state, str(checkpoint), sharded_strategy=strategy)
    except CheckpointingException as error:
        raise ArtifactError(f"{checkpoint} cannot be loaded: {error}") from error
    return loaded


def _refuse_damaged(checkpoint: Path, *, must_have_checksums: bool) -> None:
    """Each rank reads its share of the files; all refuse together. An imported checkpoint may have no checksums."""
    found = megatron.gather(_damage(checkpoint, must_have_checksums=must_have_checksums))
    problems = list(dict.fromkeys(line for lines in found for line in lines))
    if problems:
        raise ArtifactError(f"{checkpoint} is damaged: {'; '.join(problems)}{_other_choices(checkpoint)}")


def _damage(checkpoint: Path, *, must_have_checksums: bool) -> list[str]:
    try:
        expected = checksums.read(checkpoint)
    except (OSError, ValueError) as error:
        return [f"{checksums.FILE} cannot be read ({error})"]
    if expected is None:
        return [f"{checksums.FILE} is missing"] if must_have_checksums else []
    mine = checksums.share(expected, rank=torch.distributed.get_rank(), ranks=torch.distributed.get_world_size())
    return checksums.damage(checkpoint, mine)


def _refuse_other_optimizer(checkpoint: Path, optimizer: MegatronOptimizer) -> None:
    content = dist_checkpointing.load_content_metadata(str(checkpoint)) or {}
    mine = _is_distributed(optimizer)
    if DISTRIBUTED not in content:
        raise ArtifactError(
            f"{checkpoint} holds weights without optimizer state; a run can start from it, not continue it"
        )
    if content[DISTRIBUTED] is not mine:
        raise ArtifactError(
            f"{checkpoint} has the state of an optimizer with {DISTRIBUTED}={content[DISTRIBUTED]}, and this run has {mine}; "
            f"set parallelism.{DISTRIBUTED}={content[DISTRIBUTED]}, or branch from it with optimizer_state=reset"
        )


def _is_distributed(optimizer: MegatronOptimizer) -> bool:
    return any(isinstance(part, DistributedOptimizer) for part in megatron.inner_optimizers(optimizer))


def _other_choices(checkpoint: Path) -> str:
    """What to do about a checkpoint that cannot be used."""
    others = [name for name in complete_ones(checkpoint.parent) if name != checkpoint.name]
    if not others:
        return "; there is no other checkpoint: start again with --force"
    return f"; complete ones are: {', '.join(others)}; to continue from one, write its name into {checkpoint.parent / LATEST}"
