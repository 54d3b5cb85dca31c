"""Everything that was decided is said before step one."""

import dataclasses
from pathlib import Path

from small_phase import stable
from written_shards import stream

from megatron_octo.training.announce import decided
from megatron_octo.training.blend import blend
from megatron_octo.training.checkpoint import Progress
from megatron_octo.training.config import RunOptions, Validation
from megatron_octo.training.data import SampleOrder
from megatron_octo.training.lineage import Ancestor, Lineage
from megatron_octo.training.megatron import Ranks
from megatron_octo.training.parallelism import Parallelism
from megatron_octo.training.recompute import Recompute, RecomputeGranularity


def test_what_a_resumed_branch_says(tmp_path: Path) -> None:
    recipe = dataclasses.replace(
        stable(),
        blend=stable().blend.capped(qa=400),
        validation=Validation(blend=blend(held_out=1.0), tokens=8192, interval_tokens=100 * 4096),
        recompute=Recompute(granularity=RecomputeGranularity.FULL),
        parallelism=Parallelism(tensor_model_parallel_size=2, sequence_parallel=True),
        keep_every_tokens=400 * 4096,
    )
    # Windows of a corpus: 1,025 tokens hold 4 of 256 and the one after.
    streams = [stream(tmp_path, [1025], name=name, seq_length=256) for name in ("web", "qa")]
    parent = Ancestor(name="first", directory="first", step=50, total_tokens=204_800, optimizer_state=True)
    said = decided(
        recipe,
        options=RunOptions(),
        ranks=Ranks(
            rank=0, world_size=4, data_parallel_rank=0, data_parallel_size=2, context_parallel_size=1, reports_loss=True
        ),
        order=SampleOrder(blend=recipe.blend, streams=streams, seed=1, phase="p"),
        progress=Progress(step=3, tokens=3 * 4096, total_tokens=217_088),
        lineage=Lineage(name="stable", tokens_per_step=4096, tokenizer_sha256="70c0", ancestors=(parent,)),
        continued="iter_0000003",
    ).split("\n  ")
    assert said[:2] == [
        "stable: step 3 of 900, 4.1K tokens per step, 3.69M in all (total so far 217K)",
        "from first after 205K tokens (step 50); going on from iter_0000003",
    ]
    assert said[2].startswith("379K parameters, 0.00249 GFLOPs per token, ")
    assert said[2].endswith(", activations recomputed (full)")
    assert said[3].startswith(
        "4 ranks = TP 2 x PP 1 x CP 1 x DP 2, sequence parallel, distributed optimizer; "
        "1 micro-batches of 8 per rank and step; about "
    )
    assert said[4:] == [
        "learning rate (constant) 0.003 at 0, 0.003 at 3.69M tokens; AdamW betas 0.9 0.95, weight decay 0.1, gradients clipped at 1",
        # 14,400 samples: 12,960 and 1,440 of 4 windows.
        "blend: web 0.9 (3240.00 epochs of 1.02K), qa 0.1 (360.00 epochs of 1.02K, at most 400)",
        "validation on 8.19K tokens of held_out 1 every 100 steps",
        "left out: steps not finite, or 10 times the median norm; more than 10 end the run",
        "checkpoint every 200 steps in the background, the newest 3 stay and every 400 steps one",
        "watchdog after 10m00s without progress; seed 1234",
    ]
