"""How fast each step of a curation is on this machine: the tiny web, all steps, a stand-in for the language model.

    python benchmarks/curation_pipeline.py --documents 20000 --workers 2        (prints a Markdown table)

A step's seconds are its stage's own; those of the whole command, below the table, have the starts of all processes in them. Documents and
megabytes are what a step was given: files as they lie on disk, compressed, for the first, text for the others. The steps that ask a
model show what the pipeline around it costs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo import units
from megatron_octo.artifacts import read_mark

#: Each step and the one whose documents it is given.
STEPS = {
    "documents": "web",
    "annotations": "documents",
    "classifier": "annotations",
    "relevant": "documents",
    "signatures": "relevant",
    "duplicates": "relevant",
    "unique": "relevant",
    "refined": "unique",
    "corpus": "refined",
}


@dataclass(frozen=True, kw_only=True)
class Given:
    documents: int
    bytes: int


def curate(out: Path, arguments: argparse.Namespace) -> float:
    """Run all steps; seconds on the wall."""
    started = time.perf_counter()
    command = [
        sys.executable, "-m", "megatron_octo.cli", "curate", "tiny.curation", "--out", str(out), "--workers",
        str(arguments.workers), f"web.documents={arguments.documents}", f"annotation.sample={arguments.sample}",
    ]  # fmt: skip
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdin=subprocess.DEVNULL)
    return time.perf_counter() - started


def table(out: Path) -> str:
    rows = [_row(step, _mark(out / step), _given(out, step, before)) for step, before in STEPS.items()]
    head = "| step | seconds | documents | documents/s | MB/s |\n|:--|--:|--:|--:|--:|"
    return "\n".join([head, *rows])


def _row(step: str, mark: Mapping[str, Any], given: Given) -> str:
    seconds = max(mark["wall_seconds"], 1e-3)
    return (
        f"| {step} | {seconds:.1f} | {given.documents:,} | {given.documents / seconds:,.0f} | "
        f"{given.bytes / seconds / units.M:.2f} |"
    )


def _given(out: Path, step: str, before: str) -> Given:
    counts = _mark(out / before)["counts"]
    if before == "web":
        size = sum(file.stat().st_size for file in (out / "web" / "raw").iterdir())
        return Given(documents=sum(counts.values()), bytes=size)
    if step in ("annotations", "classifier"):  # a sample, of documents as long as the others
        kept = _mark(out / "documents")["counts"]
        sample = _mark(out / "annotations")["config"]["sample"]
        number = min(sample, kept["kept_documents"])
        return Given(documents=number, bytes=number * kept["kept_characters"] // kept["kept_documents"])
    return Given(documents=counts["kept_documents"], bytes=counts["kept_characters"])


def _mark(stage: Path) -> dict[str, Any]:
    mark = read_mark(stage)
    assert mark is not None, stage
    return mark


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--sample", type=int, default=2_000, help="of them, scored by the stand-in")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "run"
        seconds = curate(out, arguments)
        alone = sum(_mark(out / step)["wall_seconds"] for step in STEPS)
        print(f"{arguments.documents:,} pages, {arguments.workers} workers\n\n{table(out)}\n")
        print(f"whole command {seconds:.0f} s, of which the steps themselves {alone:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
