import pytest

from megatron_octo import units
from megatron_octo.errors import ConfigError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (7, "7"), (950, "950"), (999, "999"), (999.5, "1K"), (4_096, "4.1K"), (999_499, "999K"),
        (999_500, "1M"), (209_715_200_000, "210B"), (15e12, "15T"), (0.25, "0.25"),
    ],
)  # fmt: skip
def test_count(value: float, text: str) -> None:
    assert units.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (512, "512 B"), (2_470_000_000, "2.47 GB"), (999_600_000, "1 GB"), (1.5e12, "1.5 TB"), (1e3, "1 kB")],
)
def test_bytes(value: float, text: str) -> None:
    assert units.bytes_(value) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5GB", 5_000_000_000), ("5G", 5_000_000_000), ("2 t", 2_000_000_000_000), ("1.5M", 1_500_000), ("3k", 3_000),
        ("2GiB", 2_147_483_648), ("100 B", 100), ("7", 7),
    ],
)  # fmt: skip
def test_a_size_as_people_write_it(text: str, size: int) -> None:
    assert units.parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "G", "5 cows", "-1GB", "0", "0.1B"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no size; write one such as 5GB"):
        units.parse_bytes(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"), (3.21, "3.2s"), (9.96, "10s"), (59.4, "59s"), (59.7, "1m00s"), (75, "1m15s"), (3599.6, "1h00m"),
        (7384, "2h03m"), (100 * 3600, "100h00m"),
    ],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text
