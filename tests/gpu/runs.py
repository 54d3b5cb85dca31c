"""Runs and logits of one small model on the CPU and on the GPU, with and without Transformer Engine; each a process of its own."""

import dataclasses
import enum
import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_training
import torch

from megatron_octo.config import dumps
from megatron_octo.training import checkpoint
from megatron_octo.training.config import MidTraining, ModelConfig, TrainingJob
from megatron_octo.training.precision import Fp8Recipe, Precision, why_no_fp8

WITHOUT_TRANSFORMER_ENGINE = Path(__file__).with_name("without_transformer_engine.py")
#: A run of 200 steps of this model, start-up included, with room to spare.
TIMEOUT_SECONDS = 300

#: Sides are multiples of 128: blockwise fp8 scales blocks of 128 x 128.
MODEL = ModelConfig(
    num_layers=4, hidden_size=256, ffn_hidden_size=512, num_attention_heads=4, num_query_groups=2, kv_channels=64,
    vocab_size=tiny_training.VOCAB_SIZE, max_position_embeddings=256, share_embeddings_and_output_weights=True,
)  # fmt: skip
SEQ_LENGTH, BATCH = 128, 8
STEP = SEQ_LENGTH * BATCH
CORPORA = ("prose", "code")
#: In which a run of 200 steps reads each window less than twice.
CORPUS_TOKENS = 128 * STEP


class On(enum.Enum):
    """Where a process runs, and with whose modules."""

    CPU = "CPU"
    #: Megatron's own modules with our attention and norm, torch's AdamW.
    GPU = "GPU"
    TRANSFORMER_ENGINE = "Transformer Engine"


@functools.cache
def why_no_transformer_engine() -> str | None:
    """Asked of a process of its own: the bare package raises more than ImportError."""
    if importlib.util.find_spec("transformer_engine") is None:
        return "Transformer Engine is not installed"
    code = "from megatron_octo.training import spec; print(spec.uses_transformer_engine())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if answer.stdout.split()[-1:] == ["True"]:
        return None
    return f"Transformer Engine does not load: {(answer.stderr.splitlines() or ['Megatron-Core did not find it'])[-1]}"


def need(on: On) -> None:
    """Skips the test where this place is not here."""
    if on is On.TRANSFORMER_ENGINE and (why := why_no_transformer_engine()):
        pytest.skip(why)


def need_fp8(recipe: Fp8Recipe) -> None:
    """Skips the test without Transformer Engine, or where this GPU cannot."""
    need(On.TRANSFORMER_ENGINE)
    if why := why_no_fp8(recipe, torch.cuda.get_device_capability()):
        pytest.skip(why)


def run_module(on: On, module: str, *arguments: str | Path) -> None:
    """`python -m MODULE ARGUMENT...` there; fails with what it said."""
    # On the CPU as well: Megatron would take Transformer Engine's Adam, which is for GPUs only.
    start = ["-m"] if on is On.TRANSFORMER_ENGINE else [str(WITHOUT_TRANSFORMER_ENGINE)]
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if on is On.CPU else {}
    ended = subprocess.run(
        [sys.executable, *start, module, *map(str, arguments)], env=os.environ | hidden, capture_output=True, text=True,
        timeout=TIMEOUT_SECONDS, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, f"{module} on {on.value}:\n{ended.stdout[-2000:]}\n{ended.stderr[-6000:]}"


def write_corpora(root: Path) -> Path:
    for seed, corpus in enumerate(CORPORA):
        windows = CORPUS_TOKENS // tiny_training.SEQ_LENGTH
        tiny_training.write_shards(root / "shards", corpus, windows=windows, seed=seed)
    return root


def phase(*, steps: int, precision: Precision, **changes: Any) -> MidTraining:
    """A run on the corpora of `write_corpora` that saves at its end alone.

    All have one name: the order of the data depends on it.
    """
    sizes: dict[str, Any] = {
        "model": MODEL, "seq_length": SEQ_LENGTH, "global_batch_size": BATCH, "micro_batch_size": 4,
        "train_tokens": steps * STEP, "save_interval_tokens": steps * STEP, "schedule": tiny_training.constant(1e-3),
    }  # fmt: skip
    return dataclasses.replace(tiny_training.phase("gpu", steps=steps), precision=precision, **(sizes | changes))


def train(on: On, out: Path, recipe: MidTraining) -> Path:
    """A run in `out` on the corpora beside it; returns `out`."""
    config = out.with_suffix(".json")
    config.write_text(dumps(TrainingJob(recipe=recipe, shards=out.parent / "shards")))
    run_module(on, "megatron_octo.training.run", config, out)
    return out


def column(run: Path, name: str) -> np.ndarray:
    """One number of each step's metrics."""
    return np.array([json.loads(line)[name] for line in (run / "metrics.jsonl").read_text().splitlines()])


def logits(on: On, run: Path, out: Path) -> np.ndarray:
    """[B, S, V] of a run's newest checkpoint in fp32; the tokens are always the same."""
    run_module(on, "megatron_octo.training.logits", run / "model.json", checkpoint.require_latest(run), out)
    found: np.ndarray = np.load(out)["logits"]
    return found
