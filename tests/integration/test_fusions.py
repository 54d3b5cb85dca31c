"""A run with fused kernels is the run without them; those that are not installed are refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_training
from ranks import Ranks

from megatron_octo.errors import ConfigError
from megatron_octo.training import megatron
from megatron_octo.training.fusions import Fusions
from megatron_octo.training.precision import Precision

#: fp32 sums in another order, over a few steps of Adam.
FP32_TOLERANCE = 1e-5
#: Weights in bf16 are off by up to 0.2 %, the mean loss by less; a step on wrong gradients is off by more.
BF16_TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fusions")
    for seed, corpus in enumerate(("prose", "code")):
        tiny_training.write_shards(root / "shards", corpus, windows=40, seed=seed)
    return root


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize(
    ("precision", "fusions", "tolerance"),
    [
        (Precision.FP32, Fusions(swiglu=True), FP32_TOLERANCE),
        (Precision.BF16, Fusions(swiglu=True, cross_entropy=True), BF16_TOLERANCE),
    ],
)
def test_fused_kernels_train_the_same(
    root: Path, ranks: Ranks, precision: Precision, fusions: Fusions, tolerance: float
) -> None:
    losses = []
    for each in (Fusions(), fusions):
        recipe = tiny_training.phase("run", steps=4, precision=precision, fusions=each)
        job = tiny_training.job(root, f"{precision.value}-{each.swiglu}", recipe)
        ranks.must(job)
        losses.append([json.loads(row)["loss"] for row in (job.out / "metrics.jsonl").read_text().splitlines()])
    np.testing.assert_allclose(losses[0], losses[1], rtol=tolerance)


def test_megatrons_fused_loss_is_for_bf16() -> None:
    """Its gradient is rounded to bf16 whatever the run's precision: 6e-4 off in the loss of the third step in fp32."""
    with pytest.raises(ConfigError, match="rounds the gradient of the logits to bf16"):
        tiny_training.phase("run", steps=4, fusions=Fusions(cross_entropy=True))


@pytest.mark.parametrize(
    ("fusions", "says"),
    [
        (Fusions(rope=True), "fusions.rope is a kernel of Transformer Engine"),
        (Fusions(gradient_accumulation=True), "fusions.gradient_accumulation needs Apex"),
    ],
)
def test_kernels_that_are_not_installed_are_refused(
    monkeypatch: pytest.MonkeyPatch, fusions: Fusions, says: str
) -> None:
    monkeypatch.setattr(megatron.rope_utils, "fused_apply_rotary_pos_emb", None)
    monkeypatch.setattr(megatron.layers, "_grad_accum_fusion_available", False)
    with pytest.raises(ConfigError, match=says):
        megatron.fused(fusions)
