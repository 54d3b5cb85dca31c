"""Megatron `torch_dist` checkpoints: saved complete or not at all, loadable at another layout.

    OUT/checkpoints/iter_0000100/    one checkpoint; written as .iter_0000100.partial and renamed when complete
    OUT/checkpoints/latest           the name of the newest complete one; moves only after the checkpoint reached the disk

A checkpoint holds the model, the optimizer and `progress`, which is all a run needs to continue: data order and learning rate
are functions of it.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.gpt import GPTModel
from megatron.core.utils import unwrap_model

from megatron_octo.artifacts import sync_directory
from megatron_octo.errors import ArtifactError
from megatron_octo.training import megatron, torch_adam

LATEST = "latest"
#: Reshardable over every axis; Megatron-LM's own choice. The library's default cannot be saved in 0.16.1.
OPTIMIZER_FORMAT = {
    "distrib_optim_sharding_type": "fully_reshardable",
    "chained_optim_avoid_prefix": True,
    "singleton_local_shards": False,
}


@dataclass
class Progress:
    """Where a run is. `step` and `tokens` count this phase; `total_tokens` includes the phases before it."""

    step: int = 0
    tokens: int = 0
    total_tokens: int = 0


def checkpoint_name(step: int) -> str:
    return f"iter_{step:07d}"


def latest(stage_directory: Path) -> Path | None:
    """The newest complete checkpoint of a training or import stage, None before the first."""
    pointer = stage_directory / "checkpoints" / LATEST
    if not pointer.exists():
        return None
    checkpoint = pointer.parent / pointer.read_text().strip()
    if not (checkpoint / "metadata.json").exists():
        raise ArtifactError(f"{pointer} names {checkpoint.name}, which is not there or not complete")
    return checkpoint


def at_step(stage_directory: Path, step: int) -> Path:
    """The checkpoint of a given step. Raises `ArtifactError` with those that exist."""
    checkpoint = stage_directory / "checkpoints" / checkpoint_name(step)
    if not (checkpoint / "metadata.json").exists():
        there = sorted(path.name for path in checkpoint.parent.glob("iter_*"))
        raise ArtifactError(f"{stage_directory} has no {checkpoint.name}; it has: {', '.join(there) or 'none'}")
    return checkpoint


def save(
    stage_directory: Path, *, model: DistributedDataParallel, optimizer: Any, progress: Progress, keep: int
) -> None:
    """Write a checkpoint from all ranks, point `latest` at it, drop all but the newest `keep`."""
    checkpoints = stage_directory / "checkpoints"
    name = checkpoint_name(progress.step)
    partial = checkpoints / f".{name}.partial"
    if megatron.is_rank_zero():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    megatron.barrier()
    state = _state_dict(model, optimizer, is_loading=False)
    state["progress"] = asdict(progress)
    dist_checkpointing.save(state, str(partial), content_metadata=OPTIMIZER_FORMAT)
    megatron.barrier()
    if megatron.is_rank_zero():
        _publish(partial, checkpoints / name)
        _prune(checkpoints, keep)
    megatron.barrier()


def load(checkpoint: Path, *, model: DistributedDataParallel, optimizer: Any) -> Progress:
    """Continue a run: weights, optimizer state and progress. Returns the progress."""
    parts = megatron.inner_optimizers(optimizer)
    torch_adam.prepare_load(parts)
    state = _load(_state_dict(model, optimizer, is_loading=True) | {"progress": {}}, checkpoint)
    unwrap_model(model).load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch_adam.finish_load(parts)
    return Progress(**state["progress"])


def load_weights(checkpoint: Path, *, model: DistributedDataParallel, optimizer: Any) -> None:
    """Start from another run's or an imported model's weights with fresh optimizer state."""
    load_gpt(checkpoint, unwrap_model(model))
    optimizer.reload_model_params()


def load_gpt(checkpoint: Path, gpt: GPTModel) -> None:
    """Weights alone into a bare model, of this rank's shards. Raises `ArtifactError` naming what the checkpoint lacks."""
    # Transformer Engine's extra state is empty here, and an imported checkpoint has none.
    wanted = {key: value for key, value in gpt.sharded_state_dict().items() if not key.endswith("_extra_state")}
    weights = _load({"model": wanted}, checkpoint)["model"]
    missing = [
        key for key in gpt.load_state_dict(weights, strict=False).missing_keys if not key.endswith("_extra_state")
    ]
    if missing:
        raise ArtifactError(f"{checkpoint} lacks {', '.join(missing)}")


def _state_dict(model: DistributedDataParallel, optimizer: Any, *, is_loading: bool) -> dict[str, Any]:
    metadata = OPTIMIZER_FORMAT | {"dp_cp_group": megatron.data_parallel_group()}
    state = {"model": unwrap_model(model).sharded_state_dict(metadata=metadata)}
    state["optimizer"] = optimizer.sharded_state_dict(dict(state), is_loading=is_loading, metadata=metadata)
    return state


def _load(state: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = dist_checkpointing.load(state, str(checkpoint))
    except CheckpointingException as error:
        raise ArtifactError(f"{checkpoint} cannot be loaded: {error}") from error
    return loaded


def _publish(partial: Path, final: Path) -> None:
    for file in partial.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    pointer = final.parent / LATEST
    temporary = pointer.with_suffix(".tmp")
    temporary.write_text(final.name + "\n")
    os.replace(temporary, pointer)
    sync_directory(final.parent)


def _prune(checkpoints: Path, keep: int) -> None:
    for old in sorted(checkpoints.glob("iter_*"))[:-keep]:
        shutil.rmtree(old)


def read_model_config(stage_directory: Path) -> dict[str, Any]:
    """The `model.json` beside the checkpoints."""
    data: dict[str, Any] = json.loads((stage_directory / "model.json").read_text())
    return data
