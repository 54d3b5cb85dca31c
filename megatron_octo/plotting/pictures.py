"""Exhibits rendered for light and dark screens, and written to disk."""

from collections.abc import Sequence
from pathlib import Path

from megatron_octo import progress
from megatron_octo.plotting import exhibits, figures
from megatron_octo.plotting.exhibits import Exhibit
from megatron_octo.plotting.report import Picture


def render(shown: Sequence[Exhibit]) -> list[Picture]:
    pictures = []
    with progress.bar("draw figures", total=len(shown), unit="figures") as advance:
        for exhibit in shown:
            light, dark = (_draw(exhibit, theme) for theme in ("light", "dark"))
            pictures.append(Picture(exhibit=exhibit, light=light, dark=dark, csv=exhibits.to_csv(exhibit.numbers)))
            advance(1)
    return pictures


def write(pictures: Sequence[Picture], directory: Path) -> None:
    """`NAME.png`, `NAME_dark.png` and `NAME.csv` of each."""
    directory.mkdir()
    for picture in pictures:
        name = picture.exhibit.name
        (directory / f"{name}.png").write_bytes(picture.light)
        (directory / f"{name}_dark.png").write_bytes(picture.dark)
        (directory / f"{name}.csv").write_text(picture.csv, encoding="utf-8")


def _draw(exhibit: Exhibit, theme: str) -> bytes:
    with figures.style(theme):
        return figures.png(exhibit.draw())
