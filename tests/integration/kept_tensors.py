"""Counts the bytes autograd keeps of one forward pass of real models, beside the estimate: `python kept_tensors.py LAYOUT`.

Prints one JSON line per case: its name, bytes counted, bytes estimated. Ranks come from the environment, as torchrun sets it.
"""

import dataclasses
import itertools
import json
import logging
import sys
from collections.abc import Iterator

import torch
from megatron.core.utils import get_batch_on_this_cp_rank

from megatron_octo.training import megatron
from megatron_octo.training.activations import Modules, Tensors
from megatron_octo.training.blend import blend
from megatron_octo.training.config import MidTraining, ModelConfig
from megatron_octo.training.parallelism import Parallelism
from megatron_octo.training.precision import Precision
from megatron_octo.training.recompute import Recompute, RecomputeGranularity, RecomputeMethod
from megatron_octo.training.schedule import LearningRateStyle, Schedule

SEQ_LENGTH = 128
#: More than one sequence: what is kept per position is not what is kept per token.
MICRO_BATCH = 2
VOCAB_SIZE = 512

LAYOUTS = {
    "one rank": Parallelism(),
    "TP 2": Parallelism(tensor_model_parallel_size=2),
    "TP 2, sequence parallel": Parallelism(tensor_model_parallel_size=2, sequence_parallel=True),
    "CP 2": Parallelism(context_parallel_size=2),
}
FULL = RecomputeGranularity.FULL
RECOMPUTES = {
    "keep all": Recompute(),
    "attention again": Recompute(granularity=RecomputeGranularity.SELECTIVE),
    "MLP again": Recompute(granularity=RecomputeGranularity.SELECTIVE, modules=("mlp",)),
    "layers again": Recompute(granularity=FULL),
    "layers again in pairs": Recompute(granularity=FULL, num_layers=2),
    "three of four layers again": Recompute(granularity=FULL, method=RecomputeMethod.BLOCK, num_layers=3),
}


def cases(layout: Parallelism) -> Iterator[tuple[str, MidTraining]]:
    # Sizes without a common factor, so that no two tensors can be mistaken for each other.
    model = ModelConfig(
        num_layers=4, hidden_size=64, ffn_hidden_size=160, num_attention_heads=4, num_query_groups=2, kv_channels=24,
        vocab_size=VOCAB_SIZE, max_position_embeddings=SEQ_LENGTH,
    )  # fmt: skip
    families = {
        "Llama": model,
        "Qwen2.5": dataclasses.replace(model, add_qkv_bias=True),
        "Qwen3": dataclasses.replace(model, qk_layernorm=True),
    }
    for precision, family, recompute in itertools.product((Precision.FP32, Precision.BF16), families, RECOMPUTES):
        recipe = MidTraining(
            name="kept", model=families[family], init_from=None, tokenizer="none", blend=blend(prose=1.0),
            train_tokens=8 * SEQ_LENGTH, seq_length=SEQ_LENGTH, global_batch_size=4, micro_batch_size=MICRO_BATCH,
            schedule=Schedule(style=LearningRateStyle.CONSTANT, peak_lr=1e-3, min_lr=1e-3), precision=precision,
            parallelism=layout, recompute=RECOMPUTES[recompute], save_interval_tokens=8 * SEQ_LENGTH,
        )  # fmt: skip
        yield f"{precision.value}, {family}, {recompute}", recipe


def counted(recipe: MidTraining) -> int:
    """Bytes of all tensors that one forward pass leaves for the backward pass, each storage once, without the weights'."""
    (model,) = megatron.wrap(megatron.build_gpt(recipe.model, megatron.gpt_config(recipe)), recipe)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    tokens = torch.randint(0, VOCAB_SIZE, (MICRO_BATCH, SEQ_LENGTH))
    batch = get_batch_on_this_cp_rank({"tokens": tokens, "positions": torch.arange(SEQ_LENGTH).expand_as(tokens)})
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(batch["tokens"], batch["positions"], None, labels=batch["tokens"])
    storages = {storage.data_ptr(): storage.nbytes() for storage in (tensor.untyped_storage() for tensor in kept)}
    del loss
    return sum(size for pointer, size in storages.items() if pointer not in weights)


def main() -> None:
    logging.getLogger("megatron").setLevel(logging.ERROR)
    layout = LAYOUTS[sys.argv[1]]
    ranks = megatron.initialize(layout, seed=1)
    for name, recipe in cases(layout):
        tensors = Tensors(recipe, Modules.LOCAL)
        estimated = tensors.indices + tensors.layers(recipe.recompute) + tensors.output
        found = counted(recipe)
        if ranks.rank == ranks.world_size - 1:  # with context parallelism the first has one mask less
            print(json.dumps([name, found, estimated]), flush=True)


if __name__ == "__main__":
    main()
