"""A model of two layers, random shards and short phases: what the training tests run."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from megatron_octo import artifacts
from megatron_octo.config import to_dict
from megatron_octo.launch.jobs import Job
from megatron_octo.shards import MANIFEST, Manifest, Shard, ShardWriter
from megatron_octo.training.blend import blend
from megatron_octo.training.config import MidTraining, ModelConfig, OptimizerState, TrainingJob
from megatron_octo.training.parallelism import Parallelism
from megatron_octo.training.precision import Precision
from megatron_octo.training.schedule import LearningRateStyle, Schedule

VOCAB_SIZE = 64
SEQ_LENGTH = 16
BATCH = 4
STEP = BATCH * SEQ_LENGTH
#: Identity of the tokenizer that none of these random tokens had.
NO_TOKENIZER = hashlib.sha256(b"none").hexdigest()

#: Fields of a row of metrics that a clock or the memory says; the others of equal runs are equal bit for bit.
CLOCK = {
    "unix_seconds", "seconds", "tokens_per_second", "tokens_per_second_per_gpu", "model_tflops_per_gpu", "memory_gib", "data_wait_seconds"
}  # fmt: skip

MODEL = ModelConfig(
    num_layers=2,
    hidden_size=32,
    ffn_hidden_size=64,
    num_attention_heads=4,
    num_query_groups=2,
    kv_channels=8,
    vocab_size=VOCAB_SIZE,
    max_position_embeddings=32,
    share_embeddings_and_output_weights=True,
)


def constant(rate: float) -> Schedule:
    return Schedule(style=LearningRateStyle.CONSTANT, peak_lr=rate, min_lr=rate)


def phase(name: str, *, steps: int, **changes: Any) -> MidTraining:
    """A phase of `steps` steps in fp32 on the corpora `prose` and `code`."""
    settings = MidTraining(
        name=name,
        model=MODEL,
        init_from=None,
        tokenizer="none",
        blend=blend(prose=0.7, code=0.3),
        train_tokens=steps * STEP,
        seq_length=SEQ_LENGTH,
        global_batch_size=BATCH,
        micro_batch_size=1,
        schedule=constant(1e-2),
        precision=Precision.FP32,
        save_interval_tokens=3 * STEP,
    )
    return dataclasses.replace(settings, **changes)


def branch(parent: MidTraining, name: str, *, steps: int, at_step: int, state: OptimizerState) -> MidTraining:
    """More of the same: the parent's blend and learning rate."""
    return parent.branch(
        name=name, blend=parent.blend, train_tokens=steps * STEP, schedule=parent.schedule,
        at_tokens=at_step * STEP, optimizer_state=state,
    )  # fmt: skip


def laid_out(recipe: MidTraining, *, tensor: int = 1, pipeline: int = 1) -> MidTraining:
    return dataclasses.replace(
        recipe, parallelism=Parallelism(tensor_model_parallel_size=tensor, pipeline_model_parallel_size=pipeline)
    )


def job(root: Path, name: str, recipe: MidTraining, *, ranks: int = 1, parent: str | None = None) -> Job:
    """Train `recipe` in `root/name` on the corpora of `root/shards`, from the run in `root/parent`."""
    return Job(
        name=name,
        module="megatron_octo.training.run",
        config=TrainingJob(
            recipe=recipe, shards=root / "shards", init_checkpoint=root / parent if parent is not None else None
        ),
        out=root / name,
        logs=root / "logs" / name,
        ranks=ranks,
        needs=(parent,) if parent is not None else (),
    )


def write_shards(
    directory: Path,
    corpus: str,
    *,
    windows: int,
    seed: int,
    tokenizer: str = NO_TOKENIZER,
    document_tokens: int | None = None,
) -> None:
    """A finished corpus of exactly `windows` windows, in which a token mostly follows from the one before.

    Args:
        document_tokens: length of a document; None makes one of all tokens.
    """
    out = directory / corpus
    with artifacts.stage(out, kind="tokenize", config={"corpus": corpus}):
        tokens = _tokens(windows * SEQ_LENGTH + 1, seed)
        length = document_tokens or tokens.size
        ends = [*range(length, tokens.size, length), tokens.size]
        with ShardWriter(out / corpus, vocab_size=VOCAB_SIZE) as writer:
            writer.add(tokens, np.diff(ends, prepend=0))
        artifacts.write_json(out / MANIFEST, to_dict(_manifest(corpus, writer.shard(), tokenizer)))


def _tokens(count: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    successor = random.permutation(VOCAB_SIZE)
    tokens = np.empty(count, np.uint16)
    tokens[0] = 0
    for place, surprise in enumerate(random.random(count - 1) < 0.2):
        tokens[place + 1] = random.integers(VOCAB_SIZE) if surprise else successor[tokens[place]]
    return tokens


def _manifest(corpus: str, shard: Shard, tokenizer: str) -> Manifest:
    return Manifest(
        corpus=corpus, tokenizer_sha256=tokenizer, vocab_size=VOCAB_SIZE, engine="none", engine_version="0",
        bos_id=None, eos_id=None, prepend_bos=False, append_eod=False, shuffle_seed=None, documents=1, empty_documents=0,
        skipped_lines=0, checked_documents=0, mismatched_documents=0, tokens=shard.tokens, text_bytes=shard.tokens,
        shards=(shard,),
    )  # fmt: skip
