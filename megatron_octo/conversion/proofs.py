"""What was asked for in proof of a conversion, before it is published or later."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_octo import progress
from megatron_octo.conversion import check, parity
from megatron_octo.conversion.config import Conversion
from megatron_octo.conversion.exporting import Export
from megatron_octo.conversion.importing import Import
from megatron_octo.errors import ArtifactError, ConfigError, listed

CHECKED = "checked_tensors"
DIFFERENCE = "largest_logit_difference"
Work = Export | Import


def require_possible(config: Conversion, work: Work) -> None:
    """What would fail after everything is copied is refused before.

    Raises:
        ConfigError: logits cannot agree.
        ResourceError: there is too little memory for two models, one after the other.
    """
    if not config.check_logits:
        return
    if work.is_rounded:
        raise ConfigError(
            f"--check-logits compares the weights as they are stored, and --dtype {config.dtype.value} rounds them; convert with "
            "--dtype auto to compare logits, or prove this conversion with --check"
        )
    parity.require_memory(work.model)


def missing(config: Conversion, work: Work, written: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    """The proof that is asked for and not known yet, for a stage's counts. Raises `ArtifactError` where it fails."""
    found: dict[str, Any] = {}
    if config.check and CHECKED not in known:
        found[CHECKED] = _checked(config, work, written)
    if config.check_logits and DIFFERENCE not in known:
        found[DIFFERENCE] = _logit_difference(config, work, written)
    return found


def _checked(config: Conversion, work: Work, written: Path) -> int:
    """Every tensor of the source, read again, against the one that the inverse plan finds in what was written."""
    source, back = work.pairs(written)
    with progress.bar("check", total=sum(wanted.num_bytes for wanted in source), unit="B") as advance:
        differing = check.differing(source, back, workers=config.workers, advance=advance)
    if differing:
        raise ArtifactError(
            f"{len(differing):,} of {len(source):,} tensors were not written as they are in {config.source}: {listed(differing)}; "
            "a disk or memory fails, or the source was changed meanwhile: run it again"
        )
    _say(f"check: {len(source):,} tensors read again, all equal")
    return len(source)


def _logit_difference(config: Conversion, work: Work, written: Path) -> float:
    checkpoint, hf_directory = work.sides(written)
    largest = parity.largest_difference(
        work.model, checkpoint=checkpoint, hf_directory=hf_directory, tolerance=config.logit_tolerance
    )
    _say(f"check: logits differ by at most {largest:.3g} (allowed {config.logit_tolerance:g})")
    return largest


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
