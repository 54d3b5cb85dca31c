"""What Megatron answers: logits of a checkpoint on fixed token ids, for comparing with another implementation.

`python -m megatron_octo.training.logits MODEL.json CHECKPOINT OUT.npz` loads a `torch_dist` checkpoint, of a stage or not, on one
process in fp32 and writes `token_ids` int64 [B, S] and `logits` float32 [B, S, V].
"""

import argparse
import logging
from pathlib import Path

import numpy as np
import torch

from megatron_octo import process
from megatron_octo.config import load
from megatron_octo.training import checkpoint, megatron
from megatron_octo.training.config import ModelConfig
from megatron_octo.training.parallelism import Parallelism
from megatron_octo.training.precision import Precision

BATCH = 2
#: Long enough that rotary positions matter, short enough for an 8B model on a CPU.
SEQ_LENGTH = 64
SEED = 20_512


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a Megatron checkpoint's logits on fixed token ids.")
    parser.add_argument("model", type=Path, help="the model as JSON, as the model.json of a training or import stage")
    parser.add_argument(
        "checkpoint", type=Path, help="directory of the checkpoint, such as STAGE/checkpoints/iter_0000100"
    )
    parser.add_argument("out", type=Path, help="the .npz to write")
    arguments = parser.parse_args()
    logging.getLogger("megatron").setLevel(logging.ERROR)
    token_ids, logits = compute(load(ModelConfig, arguments.model), arguments.checkpoint)
    np.savez(arguments.out, token_ids=token_ids, logits=logits)


def compute(model: ModelConfig, directory: Path) -> tuple[np.ndarray, np.ndarray]:
    """token ids [B, S], logits [B, S, V] of a checkpoint. Raises `ArtifactError` when it cannot be loaded."""
    megatron.initialize(Parallelism(), seed=SEED)
    gpts = megatron.build_gpt(model, megatron.transformer_config(model, Parallelism(), Precision.FP32))
    checkpoint.load_gpt(directory, gpts)
    gpt = gpts[0].to(megatron.device()).eval()
    generator = torch.Generator().manual_seed(SEED)
    sequence = min(SEQ_LENGTH, model.max_position_embeddings)
    token_ids = torch.randint(0, model.vocab_size, (BATCH, sequence), generator=generator)
    positions = torch.arange(sequence).expand_as(token_ids)
    with torch.no_grad():
        logits = gpt(token_ids.to(megatron.device()), positions.to(megatron.device()), None)
    return token_ids.numpy(), logits.float().cpu().numpy()


if __name__ == "__main__":
    raise SystemExit(process.exit_code(main))
