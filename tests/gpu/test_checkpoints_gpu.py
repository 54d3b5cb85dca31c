"""A checkpoint means the same model wherever it was written and wherever it is loaded."""

from pathlib import Path

import numpy as np
import pytest
import runs
from runs import On

from megatron_octo.conversion import run as conversion
from megatron_octo.conversion.config import Conversion, Direction
from megatron_octo.training.parallelism import Parallelism
from megatron_octo.training.precision import Precision

STEPS = 20
#: Of the spread of the logits: fp32 sums in another order; Transformer Engine multiplies fp32 in TF32, with 10 bits.
TOLERANCE = {On.CPU: 1e-5, On.GPU: 1e-5, On.TRANSFORMER_ENGINE: 5e-3}
#: Kernels that add in any order. On a CPU the resumed run is equal, and one with a fresh Adam 10 % off (2026-11-23).
RESUMED_TOLERANCE = 0.01


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_corpora(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def trained(root: Path) -> dict[On, Path]:
    """A run of each place that is here; at a rate at which the norms' weights leave their one."""
    places = [On.CPU, On.GPU, *([] if runs.why_no_transformer_engine() else [On.TRANSFORMER_ENGINE])]
    precision = {On.CPU: Precision.FP32, On.GPU: Precision.BF16, On.TRANSFORMER_ENGINE: Precision.BF16}
    return {
        place: runs.train(place, root / place.name, runs.phase(steps=STEPS, precision=precision[place]))
        for place in places
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("written", "loaded"),
    [
        (On.CPU, On.GPU),
        (On.GPU, On.CPU),
        (On.CPU, On.TRANSFORMER_ENGINE),
        (On.TRANSFORMER_ENGINE, On.CPU),
        (On.TRANSFORMER_ENGINE, On.GPU),
    ],
)
def test_a_checkpoint_answers_the_same_elsewhere(
    trained: dict[On, Path], tmp_path: Path, written: On, loaded: On
) -> None:
    runs.need(written)
    runs.need(loaded)
    here = runs.logits(written, trained[written], tmp_path / "here.npz")
    there = runs.logits(loaded, trained[written], tmp_path / "there.npz")
    tolerance = max(TOLERANCE[written], TOLERANCE[loaded])
    np.testing.assert_allclose(there, here, rtol=0, atol=tolerance * here.std())
    fresh = runs.logits(On.CPU, trained[On.CPU if written is not On.CPU else On.GPU], tmp_path / "other.npz")
    assert abs(fresh - here).max() > 2 * tolerance * here.std(), "another run would pass too"


@pytest.mark.slow
@pytest.mark.parametrize("written", [On.GPU, On.TRANSFORMER_ENGINE])
def test_a_run_of_the_gpu_goes_on_there(root: Path, trained: dict[On, Path], written: On) -> None:
    """Weights and optimizer state come back: the loss goes on where an unbroken run has it, which a fresh Adam would not."""
    runs.need(written)
    longer = runs.phase(steps=2 * STEPS, precision=Precision.BF16)
    unbroken = runs.column(runs.train(written, root / f"whole-{written.name}", longer), "loss")
    losses = runs.column(runs.train(written, trained[written], longer), "loss")
    assert len(losses) == 2 * STEPS
    np.testing.assert_allclose(losses, unbroken, rtol=RESUMED_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("distributed", [True, False])
@pytest.mark.parametrize(
    ("written", "goes_on"), [(On.GPU, On.TRANSFORMER_ENGINE), (On.TRANSFORMER_ENGINE, On.GPU)], ids=lambda on: on.name
)
def test_a_run_goes_on_with_the_other_adam(root: Path, written: On, goes_on: On, distributed: bool) -> None:
    """Torch's and Transformer Engine's keep the number of steps and their settings in different places."""
    runs.need(On.TRANSFORMER_ENGINE)
    shorter, longer = (
        runs.phase(
            steps=steps, precision=Precision.BF16, parallelism=Parallelism(use_distributed_optimizer=distributed)
        )
        for steps in (STEPS, 2 * STEPS)
    )
    name = f"{written.name}-{distributed}"
    unbroken = runs.column(runs.train(written, root / f"{name}-whole", longer), "loss")
    run = runs.train(written, root / f"{name}-broken", shorter)
    losses = runs.column(runs.train(goes_on, run, longer), "loss")
    np.testing.assert_allclose(losses, unbroken, rtol=RESUMED_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("written", [On.GPU, On.TRANSFORMER_ENGINE])
def test_a_run_of_the_gpu_converts_to_hugging_face_with_equal_logits(
    trained: dict[On, Path], tmp_path: Path, written: On
) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    from megatron_octo.conversion import hf_logits, parity

    runs.need(written)
    exported = tmp_path / "exported"
    conversion.run(Conversion(direction=Direction.TO_HF, source=trained[written]), exported, False)
    here, there = tmp_path / "megatron.npz", tmp_path / "transformers.npz"
    spread = runs.logits(written, trained[written], here).std()
    hf_logits.compute(exported, here, there)
    parity.compare(here, there, tolerance=float(TOLERANCE[written] * spread))
