"""Do the Hugging Face directory and the Megatron checkpoint compute the same? Logits on fixed token ids, fp32, on the CPU.

Megatron's side comes from its own process, `python -m megatron_octo.training.logits`: a room may not import another's verbs, and
the two libraries need not share an interpreter.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from megatron_octo.errors import ArtifactError, ResourceError


def megatron_logits(stage: Path, out: Path) -> None:
    """Write token_ids int64 [B, S] and logits float32 [B, S, V] of a stage's newest checkpoint to an .npz file."""
    command = [sys.executable, "-m", "megatron_octo.training.logits", str(stage), str(out)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise ResourceError(
            f"Megatron's logits of {stage} could not be computed: {' '.join(command)}\n{run.stderr[-2000:]}"
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
