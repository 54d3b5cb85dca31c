"""What transformers answers: logits of a Hugging Face directory on the token ids of another implementation, in fp32 on the CPU.

`python -m megatron_octo.conversion.hf_logits DIRECTORY OTHER.npz OUT.npz` reads `token_ids` int64 [B, S] and writes `logits` float32 [B, S, V].
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a Hugging Face model's logits on given token ids.")
    parser.add_argument("directory", type=Path, help="Hugging Face model")
    parser.add_argument("other", type=Path, help="the .npz with token_ids")
    parser.add_argument("out", type=Path, help="the .npz to write")
    arguments = parser.parse_args()
    compute(arguments.directory, arguments.other, arguments.out)


def compute(directory: Path, other: Path, out: Path) -> None:
    with np.load(other) as data:
        token_ids = torch.from_numpy(data["token_ids"])
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, local_files_only=True)  # in eval mode
    with torch.no_grad():
        np.savez(out, logits=model(token_ids).logits.numpy())


if __name__ == "__main__":
    main()
