"""docs/measurements.md says what the predictions say; their arithmetic by hand."""

from pathlib import Path

import pytest

from megatron_octo.launch.plan import gpu_figures
from megatron_octo.recipes import llama32_1b
from megatron_octo.training.fusions import Fusions
from megatron_octo.training.precision import Precision

PAGE = Path(__file__).parents[3] / "docs" / "measurements.md"


def case(name: str, length: int, precision: Precision) -> gpu_figures.Case:
    [found] = [
        case
        for case in gpu_figures.cases()
        if (case.name, case.recipe.seq_length, case.recipe.precision) == (name, length, precision)
    ]
    return found


def test_the_page_is_what_the_arithmetic_says_now() -> None:
    page = PAGE.read_text()
    assert gpu_figures.write_into(page) == page


@pytest.mark.parametrize(
    ("fusions", "layer", "logit"),
    [
        # 22 x 2,048 of the stream, 26 x 2,560 of queries and keys, 20 x 8,192 of the product, two bytes each
        (Fusions(), 550_912, 52),
        (Fusions(rope=True), 550_912 - 2 * 22 * 2560, 52),
        (Fusions(swiglu=True), 550_912 - 2 * 12 * 8192, 52),
        (Fusions(cross_entropy=True), 550_912, 24),
        # per micro-batch, not per token
        (Fusions(gradient_accumulation=True), 550_912, 52),
    ],
)
def test_bytes_of_a_token(fusions: Fusions, layer: int, logit: int) -> None:
    moved = gpu_figures.bytes_per_token(llama32_1b.MODEL, Precision.BF16, fusions)
    assert sum(moved) == 16 * layer + 128_256 * logit


def test_fp8_moves_six_bytes_for_each_number_it_casts() -> None:
    """Inputs 2 x 2,048 + 2,048 + 8,192, gradients 3,072 + 2 x 2,048 + 2 x 8,192."""
    bf16, fp8 = (
        sum(gpu_figures.bytes_per_token(llama32_1b.MODEL, precision, Fusions()))
        for precision in (Precision.BF16, Precision.FP8)
    )
    assert fp8 - bf16 == 16 * 6 * (14_336 + 23_552)


def test_multiplying() -> None:
    """7.415 GF of products at 603.5 TFLOP/s, 1.611 of attention at 350."""
    forward, backward = gpu_figures.multiplying(case("1B", 8192, Precision.BF16).recipe)
    assert forward + backward == pytest.approx(7.415e9 / 603.5e12 + 1.611e9 / 350e12, rel=1e-3)
    assert forward == pytest.approx(7.415e9 / 603.5e12 / 3 + 1.611e9 / 350e12 * 2 / 7, rel=1e-3)


def test_a_step_of_one_card() -> None:
    """1B: four micro-batches of 8,192; 1.236e9 parameters x 50 bytes over 3.015 TB/s are 20.5 ms."""
    found = case("1B", 8192, Precision.BF16)
    assert found.seconds().optimizer == pytest.approx(0.0205, abs=0.0001)
    assert found.tokens_per_second() == pytest.approx(32_768 / found.seconds().step)
    assert found.tokens_per_second(gpu_figures.ALL_FUSIONS) > found.tokens_per_second()


def test_a_model_is_cut_to_what_one_card_holds() -> None:
    names = {case.name for case in gpu_figures.cases()}
    assert "1B" in names
    assert "1B over 8 GPUs" not in names
    assert {"8B, 8 of 32 layers", "8B over 8 GPUs"} <= names


def test_a_page_without_a_place_for_the_table() -> None:
    with pytest.raises(ValueError, match="has no place for the table"):
        gpu_figures.write_into("# Measurements\n")
