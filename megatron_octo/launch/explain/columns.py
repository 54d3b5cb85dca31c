"""How `show` lays text out: sections of labelled rows, in columns."""

from collections.abc import Sequence

from megatron_octo.units import duration

LABEL_WIDTH = 24

Row = tuple[str, str]


def section(title: str, lines: Sequence[str]) -> str:
    return "\n".join([title, *(f"  {line}" for line in lines)])


def rows(pairs: Sequence[Row]) -> list[str]:
    """Label and value in two columns; further lines of a value stand under its first."""
    return [
        f"{label if index == 0 else '':<{LABEL_WIDTH}}{line}"
        for label, value in pairs
        for index, line in enumerate(value.split("\n"))
    ]


def percent(share: float) -> str:
    return f"{share * 100:.4g} %"


def hours(number: float) -> str:
    """Days once there are many hours."""
    return duration(number * 3600) if number < 72 else f"{number / 24:.1f} days"
