"""Every stand-in that lets Megatron-Core run without CUDA is needed: left out, training, saving or loading breaks.

Each is left out of the run in which it breaks first. With all in place every layout works (test_layouts.py); here is bf16.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
from ranks import Ranks

from megatron_octo.training import cpu
from megatron_octo.training.config import OptimizerState
from megatron_octo.training.parallelism import Parallelism
from megatron_octo.training.precision import Precision


@dataclass(frozen=True)
class Scenario:
    """A run of two steps that saves; or one that goes on from it, in the same layout."""

    ranks: int = 1
    layout: Parallelism = field(default_factory=Parallelism)
    loads: bool = False


SCENARIOS = {
    "one": Scenario(),
    "tp2sp": Scenario(ranks=2, layout=Parallelism(tensor_model_parallel_size=2, sequence_parallel=True)),
    "pp2": Scenario(ranks=2, layout=Parallelism(pipeline_model_parallel_size=2)),
    "cp2": Scenario(ranks=2, layout=Parallelism(context_parallel_size=2)),
    "dp2_loads": Scenario(ranks=2, loads=True),
}
#: Where a stand-in is needed, if not for a single process that trains and saves.
NEEDED_IN = {
    "tensor_parallel.layers": "tp2sp",
    "tensor_parallel.mappings": "tp2sp",
    "models.common.embeddings.rope_utils": "cp2",
    "pipeline_parallel.p2p_communication": "pp2",
    "dist_checkpointing.exchange_utils": "dp2_loads",
    "dist_checkpointing.strategies.fully_parallel": "dp2_loads",
    "torch.empty_like": "dp2_loads",
}
#: What is said without it, where that is not torch's usual complaint.
SAYS = {
    "Tensor.type": "Wrapped parameters must be one of torch.cuda.FloatTensor",
    "models.common.embeddings.rope_utils": "pin_memory=True requires a CUDA",
    "set_rng_state": "the fork disturbs the state outside",
    "torch.cuda.manual_seed": "the forked state is another",
}
NO_CUDA = "Torch not compiled with CUDA enabled"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, ranks: Ranks) -> Path:
    root = tmp_path_factory.mktemp("stand_ins")
    tiny.write_shards(root / "shards", "prose", windows=50, seed=1)
    tiny.write_shards(root / "shards", "code", windows=20, seed=2)
    ranks.must(job(root, "parent", Scenario(ranks=2)))
    return root


def job(root: Path, name: str, scenario: Scenario, **changes: Any) -> tiny.Job:
    recipe = replace(tiny.phase("probe", steps=2), parallelism=scenario.layout, **changes)
    if scenario.loads:
        recipe = tiny.branch(recipe, "loads", steps=1, at_step=2, state=OptimizerState.CARRY)
    return tiny.job(root, name, recipe, ranks=scenario.ranks, parent="parent" if scenario.loads else None)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_with_all_of_them_it_runs(root: Path, ranks: Ranks, scenario: str) -> None:
    ranks.must(job(root, scenario, SCENARIOS[scenario]), prelude="stand_in_probe:leave_out", argument=[])


@pytest.mark.slow
@pytest.mark.parametrize("name", cpu.STAND_INS)
def test_without_it_something_breaks(root: Path, ranks: Ranks, name: str) -> None:
    scenario = SCENARIOS[NEEDED_IN.get(name, "one")]
    ended = ranks.run(
        job(root, f"without_{name}", scenario), prelude="stand_in_probe:leave_out", argument=[name], timeout=30.0
    )
    assert SAYS.get(name, NO_CUDA) in "".join(ended.said)
    assert not ended.ok


@pytest.mark.slow
def test_bf16_learns_what_fp32_does(root: Path, ranks: Ranks) -> None:
    for precision in (Precision.FP32, Precision.BF16):
        ranks.must(job(root, precision.value, SCENARIOS["one"], precision=precision))
    fp32, bf16 = (
        [json.loads(line) for line in (root / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("fp32", "bf16")
    )
    assert len(bf16) == 2
    for key in ("loss", "grad_norm"):  # bf16 has three digits
        assert [row[key] for row in bf16] == pytest.approx([row[key] for row in fp32], rel=2e-2)
