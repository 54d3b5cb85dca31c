"""A program of test_conversion.py, one process per rank: loads a stage's weights at some layout and saves them with an optimizer.

`megatron_checkpoint.py SOURCE_STAGE OUT_STAGE TENSOR_PARALLEL PIPELINE_PARALLEL`; the ranks are described by the environment.
"""

import sys
from pathlib import Path

from megatron_octo import artifacts
from megatron_octo.config import from_dict, to_dict
from megatron_octo.training import checkpoint, megatron
from megatron_octo.training.config import (
    LearningRateStyle,
    MidTraining,
    ModelConfig,
    Parallelism,
    Precision,
    Schedule,
    blend,
)


def main(source: Path, out: Path, tensor_parallel: int, pipeline_parallel: int) -> None:
    recipe = MidTraining(
        name="resaved",
        model=from_dict(ModelConfig, checkpoint.read_model_config(source)),
        init_from=None,
        tokenizer="none",
        blend=blend(web=1.0),
        train_tokens=64,
        seq_length=32,
        global_batch_size=2,
        micro_batch_size=1,
        schedule=Schedule(style=LearningRateStyle.CONSTANT, peak_lr=1e-3, min_lr=1e-3),
        parallelism=Parallelism(
            tensor_model_parallel_size=tensor_parallel, pipeline_model_parallel_size=pipeline_parallel
        ),
        precision=Precision.FP32,
        save_interval_tokens=64,
    )
    megatron.initialize(recipe.parallelism, recipe.seed)
    model = megatron.wrap(megatron.build_gpt(recipe.model, megatron.gpt_config(recipe)), recipe)
    optimizer = megatron.build_optimizer(model, recipe)
    weights = checkpoint.latest(source)
    assert weights is not None
    checkpoint.load_weights(weights, model=model, optimizer=optimizer)
    # A step at learning rate zero, so that the optimizer has state to save and the weights stay as they are.
    for parameter in model.parameters():
        parameter.main_grad.fill_(1.0)
    megatron.set_learning_rate(optimizer, 0.0, 0.0)
    optimizer.step()
    checkpoint.save(out, model=model, optimizer=optimizer, progress=checkpoint.Progress(step=1), keep=1)
    if megatron.is_rank_zero():
        artifacts.write_json(out / "model.json", to_dict(recipe.model))


if __name__ == "__main__":  # Megatron's checkpoint writer spawns processes that import this file
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
