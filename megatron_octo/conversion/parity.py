"""Do the Hugging Face directory and the Megatron checkpoint compute the same? Logits on fixed token ids, fp32, on the CPU.

Each side comes from a process of its own, one after the other: `python -m megatron_octo.training.logits` and `...conversion.hf_logits`. One
model is in memory at a time, and nothing here needs torch.
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


def largest_difference(model: ModelConfig, *, checkpoint: Path, hf_directory: Path, tolerance: float) -> float:
    """The largest absolute difference of the logits of a `torch_dist` checkpoint and a Hugging Face directory.

    Raises:
        ResourceError: there is too little memory, or one of the libraries failed; its last words are in the message.
        ArtifactError: the difference is above the tolerance; says where.
    """
    require_memory(model)
    print(f"comparing logits in fp32: {units.bytes_(memory_bytes(model))} of memory", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as directory:
        files = {name: Path(directory) / name for name in ("model.json", "megatron.npz", "hf.npz")}
        write_json(files["model.json"], to_dict(model))
        _run("megatron_octo.training.logits", files["model.json"], checkpoint, files["megatron.npz"])
        _run("megatron_octo.conversion.hf_logits", hf_directory, files["megatron.npz"], files["hf.npz"])
        return compare(files["megatron.npz"], files["hf.npz"], tolerance=tolerance)


def compare(megatron: Path, hugging_face: Path, *, tolerance: float) -> float:
    """The largest absolute difference of two .npz files with `logits` [B, S, V]. Raises `ArtifactError` above the tolerance."""
    expected, found = (_logits(file) for file in (megatron, hugging_face))
    differences = np.abs(found - expected)
    largest = float(differences.max())
    # `not <=` also catches NaN
    if not largest <= tolerance:
        row, position, token = np.unravel_index(int(np.argmax(differences)), differences.shape)
        raise ArtifactError(
            f"the logits of the two models differ by up to {largest:.3g} (allowed {tolerance:g}), most at sequence {row}, position "
            f"{position}, token {token}: Hugging Face says {found[row, position, token]:.6g}, Megatron "
            f"{expected[row, position, token]:.6g}; weights that were rounded differ: dtype=auto rounds none"
        )
    return largest


def _logits(file: Path) -> npt.NDArray[np.float32]:
    with np.load(file) as data:
        found: npt.NDArray[np.float32] = data["logits"]
    return found


def _run(module: str, *arguments: Path) -> None:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    # Sums on a GPU differ from those on a CPU by more than the tolerance.
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    if run.returncode:
        raise ResourceError(f"logits could not be computed: {' '.join(command)}\n{run.stderr[-2000:]}")
