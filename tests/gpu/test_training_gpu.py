"""The same run on a GPU as on the CPU, and fp8 beside bf16."""

from pathlib import Path

import numpy as np
import pytest
import runs
from runs import On

from megatron_octo.training.precision import Fp8, Fp8Recipe, Precision

STEPS, FP8_STEPS = 20, 200
#: Sums in another order (6e-8 each), which twenty steps of Adam carry on; Transformer Engine multiplies fp32 in TF32 (5e-4 each).
FP32_TOLERANCE = {On.GPU: 1e-4, On.TRANSFORMER_ENGINE: 5e-3}
#: A number in bf16 is off by up to 2^-9, 0.2 %; the loss is a mean of many, of weights that part from each other over the steps. bf16 on
#: a CPU was 0.07 % off (2026-11-23).
BF16_TOLERANCE = 0.005
#: Asked for: the mean loss of the last steps in fp8 beside bf16's.
FP8_TOLERANCE = 0.01
LAST_STEPS = 20


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_corpora(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def on_cpu(root: Path) -> Path:
    return runs.train(On.CPU, root / "cpu", runs.phase(steps=STEPS, precision=Precision.FP32))


@pytest.fixture(scope="module")
def bf16_loss(root: Path) -> float:
    runs.need(On.TRANSFORMER_ENGINE)
    recipe = runs.phase(steps=FP8_STEPS, precision=Precision.BF16)
    return _last(runs.train(On.TRANSFORMER_ENGINE, root / "long-bf16", recipe))


@pytest.mark.slow
@pytest.mark.parametrize("on", [On.GPU, On.TRANSFORMER_ENGINE])
def test_fp32_on_a_gpu_is_the_run_of_the_cpu(root: Path, on_cpu: Path, on: On) -> None:
    runs.need(on)
    run = runs.train(on, root / f"fp32-{on.name}", runs.phase(steps=STEPS, precision=Precision.FP32))
    for what in ("loss", "grad_norm"):
        np.testing.assert_allclose(
            runs.column(run, what), runs.column(on_cpu, what), rtol=FP32_TOLERANCE[on], err_msg=what
        )


@pytest.mark.slow
@pytest.mark.parametrize("on", [On.GPU, On.TRANSFORMER_ENGINE])
def test_bf16_on_a_gpu_is_near_fp32_on_the_cpu(root: Path, on_cpu: Path, on: On) -> None:
    runs.need(on)
    run = runs.train(on, root / f"bf16-{on.name}", runs.phase(steps=STEPS, precision=Precision.BF16))
    loss, expected = runs.column(run, "loss"), runs.column(on_cpu, "loss")
    assert expected[-1] < 0.9 * expected[0], "a run that learns nothing would agree with any other"
    np.testing.assert_allclose(loss, expected, rtol=BF16_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", Fp8Recipe)
def test_fp8_loses_no_more_than_a_hundredth_against_bf16(root: Path, bf16_loss: float, recipe: Fp8Recipe) -> None:
    runs.need_fp8(recipe)
    phase = runs.phase(steps=FP8_STEPS, precision=Precision.FP8, fp8=Fp8(recipe=recipe))
    run = runs.train(On.TRANSFORMER_ENGINE, root / f"fp8-{recipe.value}", phase)
    assert runs.column(run, "skipped_steps")[-1] == 0
    assert _last(run) == pytest.approx(bf16_loss, rel=FP8_TOLERANCE)


def _last(run: Path) -> float:
    return float(runs.column(run, "loss")[-LAST_STEPS:].mean())
