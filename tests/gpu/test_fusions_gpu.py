"""A run with fused kernels trains as the one without them."""

from pathlib import Path

import numpy as np
import pytest
import runs
from megatron.core.models.common.embeddings import rope_utils
from megatron.core.tensor_parallel import layers
from runs import On

from megatron_octo.training.fusions import Fusions
from megatron_octo.training.precision import Fp8Recipe, Precision

STEPS = 20
#: A number in bf16 is off by up to 2^-9, 0.2 %, and the mean loss by less: unfused RoPE rounds its angles to bf16, the fused one does not.
#: On a CPU swiglu and cross_entropy were within 0.1 % (tests/integration/test_fusions.py).
TOLERANCE, FP8_TOLERANCE = 0.005, 0.01


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_corpora(tmp_path_factory.mktemp("fusions"))


@pytest.fixture(scope="module")
def unfused(root: Path) -> dict[On, np.ndarray]:
    """The loss of each step, of each place that is here."""
    places = [On.GPU, *([] if runs.why_no_transformer_engine() else [On.TRANSFORMER_ENGINE])]
    phase = runs.phase(steps=STEPS, precision=Precision.BF16)
    return {place: runs.column(runs.train(place, root / f"off-{place.name}", phase), "loss") for place in places}


def need(on: On, fusions: Fusions) -> None:
    """Skips the test where a kernel is not here."""
    runs.need(on)
    if fusions.rope and on is On.GPU:
        pytest.skip("fused RoPE is Transformer Engine's")
    if fusions.rope and rope_utils.fused_apply_rotary_pos_emb is None:
        pytest.skip("this Transformer Engine has no fused RoPE that Megatron-Core finds")
    if fusions.gradient_accumulation and (on is On.GPU or not layers._grad_accum_fusion_available):
        pytest.skip("Apex with its CUDA extensions is not installed")


@pytest.mark.slow
@pytest.mark.parametrize("on", [On.GPU, On.TRANSFORMER_ENGINE])
@pytest.mark.parametrize("name", ["swiglu", "cross_entropy", "rope", "gradient_accumulation"])
def test_a_fused_kernel_trains_the_same(root: Path, unfused: dict[On, np.ndarray], on: On, name: str) -> None:
    fusions = Fusions(**{name: True})
    need(on, fusions)
    phase = runs.phase(steps=STEPS, precision=Precision.BF16, fusions=fusions)
    loss = runs.column(runs.train(on, root / f"{name}-{on.name}", phase), "loss")
    assert unfused[on][-1] < 0.9 * unfused[on][0], "a run that learns nothing would agree with any other"
    np.testing.assert_allclose(loss, unfused[on], rtol=TOLERANCE)


@pytest.mark.slow
def test_fp8_with_fused_kernels_is_near_bf16(root: Path, unfused: dict[On, np.ndarray]) -> None:
    """What a run for speed turns on at once; 1 % is what the loss in fp8 may be off."""
    runs.need_fp8(Fp8Recipe.TENSORWISE)
    fusions = Fusions(swiglu=True, cross_entropy=True, rope=rope_utils.fused_apply_rotary_pos_emb is not None)
    phase = runs.phase(steps=STEPS, precision=Precision.FP8, fusions=fusions)
    loss = runs.column(runs.train(On.TRANSFORMER_ENGINE, root / "fp8", phase), "loss")
    np.testing.assert_allclose(loss, unfused[On.TRANSFORMER_ENGINE], rtol=FP8_TOLERANCE)
