"""Do the Hugging Face directory and the Megatron checkpoint compute the same? Logits on fixed token ids, fp32, on the CPU.

Megatron's side comes from its own process, `python -m megatron_octo.training.logits`: a room may not import another's verbs, and
the two libraries need not share an interpreter. One model is in memory at a time.
"""

import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from megatron_octo import units
from megatron_octo.artifacts import write_json
from megatron_octo.config import to_dict
from megatron_octo.conversion import layout
from megatron_octo.errors import ArtifactError, ResourceError
from megatron_octo.training.config import ModelConfig

#: The libraries themselves, and logits.
BASE_BYTES = 1 * units.GIB
#: Peak over the weights in fp32. Megatron joins gate and up anew while loading: 1.5 was measured at 0.85B parameters, where
#: these are 44 % of all; they are 47 % of Llama-3.1-8B, on which this is a guess. transformers took 1.1.
PEAK = 1.75


def memory_bytes(model: ModelConfig) -> int:
    """Memory that comparing logits takes; one model is loaded at a time."""
    numbers = sum(math.prod(shape) for shape in layout.hf_shapes(model).values())
    return BASE_BYTES + round(PEAK * 4 * numbers)


def require_memory(model: ModelConfig) -> None:
    """Raises `ResourceError` when the machine has too little free memory to compare logits."""
    needed, free = memory_bytes(model), int(psutil.virtual_memory().available)
    if free < needed:
        raise ResourceError(
            f"check_logits loads the model in fp32, {units.bytes_(needed)} of memory, and {units.bytes_(free)} are free; run it "
            "on a larger machine, or prove the conversion with check, which needs no model in memory"
        )


def megatron_logits(model: ModelConfig, checkpoint: Path, out: Path) -> None:
    """Write token_ids int64 [B, S] and logits float32 [B, S, V] of a `torch_dist` checkpoint to an .npz file.

    Raises:
        ResourceError: there is too little memory, or Megatron failed; its last words are in the message.
    """
    require_memory(model)
    print(f"comparing logits in fp32: {units.bytes_(memory_bytes(model))} of memory", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "model.json"
        write_json(file, to_dict(model))
        command = [sys.executable, "-m", "megatron_octo.training.logits", str(file), str(checkpoint), str(out)]
        # Sums on a GPU differ from transformers' by more than the tolerance.
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
        run = subprocess.run(command, capture_output=True, text=True, env=environment)
    if run.returncode:
        raise ResourceError(
            f"Megatron's logits of {checkpoint} could not be computed: {' '.join(command)}\n{run.stderr[-2000:]}"
        )


def compare(npz: Path, hf_directory: Path, *, tolerance: float) -> float:
    """The largest absolute difference of logits. Raises `ArtifactError` above the tolerance, saying where it is."""
    with np.load(npz) as data:
        token_ids, expected = data["token_ids"], data["logits"]
    found = _hf_logits(hf_directory, token_ids)
    differences = np.abs(found - expected)
    largest = float(differences.max())
    # `not <=` also catches NaN
    if not largest <= tolerance:
        row, position, token = np.unravel_index(int(np.argmax(differences)), differences.shape)
        raise ArtifactError(
            f"the logits of {hf_directory} and of its Megatron checkpoint differ by up to {largest:.3g} (allowed {tolerance:g}), "
            f"most at sequence {row}, position {position}, token {token}: {found[row, position, token]:.6g} and "
            f"{expected[row, position, token]:.6g}; a checkpoint of fp32 weights needs dtype=fp32 to agree this closely"
        )
    return largest


def _hf_logits(directory: Path, token_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """logits [B, S, V] of the Hugging Face model in fp32."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, local_files_only=True)  # in eval mode
    with torch.no_grad():
        logits: npt.NDArray[np.float32] = model(torch.from_numpy(token_ids)).logits.numpy()
    return logits
