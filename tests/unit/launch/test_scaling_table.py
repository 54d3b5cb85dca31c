"""docs/scaling.md says what the estimators say."""

from pathlib import Path

import pytest

from megatron_octo.launch.plan import scaling

PAGE = Path(__file__).parents[3] / "docs" / "scaling.md"


def test_the_page_is_what_the_estimators_say_now() -> None:
    page = PAGE.read_text()
    assert scaling.write_into(page) == page


def test_the_arithmetic_of_a_row() -> None:
    """3B on 64 GPUs: 4,194,304 tokens at 64 x 16,838 a second; 3.21e9 parameters x 6 bytes over a 50 GB/s port."""
    [scale] = [scale for scale in scaling.scales() if (scale.model, scale.gpus) == ("3B", 64)]
    assert scale.step_seconds == pytest.approx(3.892, abs=0.001)
    assert scale.network_seconds == pytest.approx(0.3855, abs=0.0005)
    assert scale.checkpoint_seconds == pytest.approx(44.98 / 16, abs=0.01)


def test_a_page_without_a_place_for_the_table() -> None:
    with pytest.raises(ValueError, match="has no place for the table"):
        scaling.write_into("# Scaling\n")
