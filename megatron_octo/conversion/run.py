"""A Megatron checkpoint to a Hugging Face directory, or back: Conversion -> OUT.

Either way one tensor at a time, in the memory of the largest tensor; no model is built, no process group, no GPU. An interrupted
conversion is cleared and done again (`artifacts.stage` of a stage that does not resume): it takes minutes. Until it is done
nothing can take it for a model, because what loaders look for, config.json or `checkpoints/latest`, is written last.

    from-hf makes OUT/model.json, OUT/checkpoints/iter_0000000/ and OUT/checkpoints/latest, as a training stage does.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_octo import artifacts, process, progress
from megatron_octo.config import load, to_dict
from megatron_octo.conversion import card, families, hf_config, layout, parity
from megatron_octo.conversion.config import Conversion, Direction, ExportDtype
from megatron_octo.conversion.hf_weights import SafetensorsReader, write_safetensors
from megatron_octo.conversion.stream import LazyTensor, TorchDistReader, write_torch_dist
from megatron_octo.errors import ArtifactError, ConfigError
from megatron_octo.shards import TOKENIZER_SHA256
from megatron_octo.tokenization.identity import tokenizer_sha256
from megatron_octo.training.config import ModelConfig

MODEL_FILE = "model.json"
TOKENIZER_FILE = "tokenizer.json"
DTYPES = {ExportDtype.FP32: torch.float32, ExportDtype.BF16: torch.bfloat16}


def run(config: Conversion, out: Path, force: bool) -> None:
    convert = {Direction.TO_HF: _to_hf, Direction.FROM_HF: _from_hf}[config.direction]
    inputs = {"source": config.source} | ({"tokenizer": config.tokenizer} if config.tokenizer is not None else {})
    with artifacts.stage(out, kind="convert", config=config, inputs=inputs, force=force) as stage:
        if stage.done:
            return
        stage.counts.update(convert(config, out))


# Megatron to Hugging Face ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A checkpoint and the stage directory it belongs to."""

    stage: Path
    checkpoint: Path


def find_checkpoint(source: Path) -> Source:
    """The newest checkpoint of a stage directory, or the checkpoint that was named."""
    if (source / ".metadata").exists():
        return Source(stage=source.parent.parent, checkpoint=source)
    pointer = source / "checkpoints" / "latest"
    if not pointer.exists():
        raise ArtifactError(f"{source} is neither a checkpoint nor a stage directory with one (no checkpoints/latest)")
    return Source(stage=source, checkpoint=pointer.parent / pointer.read_text().strip())


def _to_hf(config: Conversion, out: Path) -> dict[str, Any]:
    source = find_checkpoint(config.source)
    if config.check_logits and source.checkpoint == config.source:
        raise ConfigError(f"check_logits runs the newest checkpoint of a stage; name {source.stage} as the source")
    model = load(ModelConfig, source.stage / MODEL_FILE)
    families.of_model(model)  # refused before anything is written
    reader = TorchDistReader(source.checkpoint)
    _check_keys(reader, model, source.checkpoint)
    dtype, shapes = DTYPES[config.dtype], layout.hf_shapes(model)
    total = _total_bytes(model, dtype)
    artifacts.require_disk(out, total)
    with progress.bar("convert to Hugging Face", total=total, unit="B") as advance:
        tensors = _split_all(reader, model, dtype, advance)
        write_safetensors(out, shapes=shapes, tensors=tensors, dtype=dtype, max_shard_bytes=config.max_shard_bytes)
    _write_surroundings(config, out, source, model)
    checked = _check_logits(config, stage=source.stage, hf_directory=out) if config.check_logits else {}
    return {"tensors": len(shapes), "bytes": total, **checked}


def _split_all(
    reader: TorchDistReader, model: ModelConfig, dtype: torch.dtype, advance: progress.Advance
) -> Iterator[tuple[str, Tensor]]:
    """Every Hugging Face tensor with its name, in the order of `layout.hf_shapes`."""
    for weight, layer in layout.each(model):
        parts = weight.split(reader.read(weight.key, layer))
        for name, part in zip(weight.names(layer), parts, strict=True):
            yield name, part
            advance(part.numel() * dtype.itemsize)


def _check_keys(reader: TorchDistReader, model: ModelConfig, checkpoint: Path) -> None:
    """The model's tensors must all be there, and none besides; the optimizer's are passed over."""
    expected = {weight.key for weight in layout.weights(model)}
    found = {key for key in reader.tensors if not key.startswith("optimizer.")}
    if found != expected:
        raise ArtifactError(
            f"{checkpoint} is not the model its {MODEL_FILE} describes; "
            f"missing: {', '.join(sorted(expected - found)) or 'none'}; "
            f"unexpected: {', '.join(sorted(found - expected)) or 'none'}"
        )


def _write_surroundings(config: Conversion, out: Path, source: Source, model: ModelConfig) -> None:
    bos, eos = (None, None) if config.tokenizer is None else hf_config.copy_tokenizer(config.tokenizer, out)
    card.write_card(out, model=model, checkpoint=source.checkpoint, stage=artifacts.read_mark(source.stage))
    hf_config.write_config(out, model, dtype=DTYPES[config.dtype], bos_token_id=bos, eos_token_id=eos)


# Hugging Face to Megatron ---------------------------------------------------------------------------------------------


def _from_hf(config: Conversion, out: Path) -> dict[str, Any]:
    model = hf_config.read_config(config.source)
    reader = SafetensorsReader(config.source)
    reader.check(layout.hf_shapes(model), copies=layout.copies(model))
    dtype = DTYPES[config.dtype]
    total = _total_bytes(model, dtype)
    artifacts.require_disk(out, total)
    checkpoint = out / "checkpoints" / "iter_0000000"
    with progress.bar("convert from Hugging Face", total=total, unit="B") as advance:
        tensors = {
            weight.key: _joined(reader, weight, model.num_layers, dtype, advance) for weight in layout.weights(model)
        }
        write_torch_dist(checkpoint, tensors)
    artifacts.write_json(out / MODEL_FILE, to_dict(model))
    (checkpoint.parent / "latest").write_text(checkpoint.name + "\n")
    checked = _check_logits(config, stage=out, hf_directory=config.source) if config.check_logits else {}
    return {"tensors": len(tensors), "bytes": total, **_tokenizer(config.source), **checked}


def _tokenizer(source: Path) -> dict[str, str]:
    """Its identity, so that training refuses corpora of another; nothing for a directory without one."""
    return {TOKENIZER_SHA256: tokenizer_sha256(source)} if (source / TOKENIZER_FILE).exists() else {}


def _joined(
    reader: SafetensorsReader, weight: layout.Weight, num_layers: int, dtype: torch.dtype, advance: progress.Advance
) -> LazyTensor:
    def make(layer: int | None) -> Tensor:
        tensor = weight.join([reader.read(name) for name in weight.names(layer)]).to(dtype)
        advance(tensor.nbytes)
        return tensor

    if not weight.stacked:
        return LazyTensor(weight.shape, dtype, None, make)
    return LazyTensor((num_layers, *weight.shape), dtype, num_layers, make)


# Both -----------------------------------------------------------------------------------------------------------------


def _total_bytes(model: ModelConfig, dtype: torch.dtype) -> int:
    return sum(torch.Size(shape).numel() for shape in layout.hf_shapes(model).values()) * dtype.itemsize


def _check_logits(config: Conversion, *, stage: Path, hf_directory: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        npz = Path(directory) / "logits.npz"
        parity.megatron_logits(stage, npz)
        return {"largest_logit_difference": parity.compare(npz, hf_directory, tolerance=config.logit_tolerance)}


if __name__ == "__main__":
    raise SystemExit(process.main(run, Conversion))
