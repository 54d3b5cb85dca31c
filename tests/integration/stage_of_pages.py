"""Documents as the first steps of a curation leave them, made without them."""

from pathlib import Path

from datatrove.data import Document

from megatron_octo import artifacts
from megatron_octo.curation.config import InParts
from megatron_octo.curation.documents import Write

MATH = "Solve the equation $x^2 = {n}$: the integers $x = {n}$ and the fraction $\\frac{{1}}{{{n}}}$ are tried, and the proof ends. "
PROSE = "In the year of the flood the town of number {n} had a mill, a market and a long wall along the river. "


def stage_of_pages(out: Path, count: int, *, parts: int = 2) -> Path:
    """A finished stage of pages, half of them mathematics, of 2014 and, a quarter, 2015."""
    with artifacts.stage(out, kind="documents", config=InParts(parts=parts)) as stage:
        for part in range(parts):
            pages = (
                Document(
                    text=(MATH if number % 2 else PROSE).format(n=number) * 5,
                    id=f"page {number}",
                    metadata={"timestamp": f"{2014 + (number % 4 == 0)}-05-01"},
                )
                for number in range(part, count, parts)
            )
            list(Write(out).run(pages, rank=part))
        stage.counts |= {
            "kept_documents": count,
            "kept_characters": 500 * count,
            "kept_year_2014": count - -(-count // 4),
            "kept_year_2015": -(-count // 4),
        }
    return out
