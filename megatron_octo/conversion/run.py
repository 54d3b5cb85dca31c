"""A Megatron checkpoint to a Hugging Face directory, or back: Conversion -> OUT.

Headers are read and a plan is made; then bytes are copied, file by file, into OUT/.partial. OUT shows nothing of a model until all of
it is there, checked where that was asked for: then what loaders look for (config.json, `checkpoints/latest`) comes last. A killed
conversion continues with the files that were not finished. Several machines, or the tasks of a Slurm array, run the same command with
`tasks` and `task` set: each copies its share of the files, and the one that finds nothing missing puts the directory together.
"""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from megatron_octo import artifacts, process, progress, units
from megatron_octo.checksums import Checksum
from megatron_octo.conversion import check, copying, parity
from megatron_octo.conversion.config import Conversion, Direction
from megatron_octo.conversion.exporting import Export
from megatron_octo.conversion.importing import Import
from megatron_octo.conversion.plan import OutputFile
from megatron_octo.errors import ArtifactError, listed

PARTIAL = ".partial"
Work = Export | Import


def run(config: Conversion, out: Path, force: bool) -> None:
    process.allow_open_files()
    work: Work = Export(config) if config.direction is Direction.TO_HF else Import(config)
    if config.check_logits:
        parity.require_memory(work.model)
    partial = out / PARTIAL
    with contextlib.ExitStack() as until_marked_done, artifacts.stage(
        out, kind="convert", config=config, inputs=work.inputs, raw_inputs=work.raw_inputs, resumable=True,
        shared=config.tasks > 1, force=force, needs_bytes=sum(file.size for file in _missing(work.files, partial)),
    ) as stage:  # fmt: skip
        if stage.done:
            return
        partial.mkdir(exist_ok=True)
        with _kept_if_worth_it(work, partial, stage):
            _copy_missing(config, work, partial)
            until_marked_done.enter_context(artifacts.one_at_a_time(out))
            stage.complete = not artifacts.is_done(out) and _all_there(work, partial)
            if stage.complete:
                _finish(config, work, out, stage)


@contextlib.contextmanager
def _kept_if_worth_it(work: Work, partial: Path, stage: artifacts.Stage) -> Iterator[None]:
    """A try that fails before it has finished a file leaves nothing behind, unless other tasks work there."""
    try:
        yield
    except BaseException:
        shared = work.config.tasks > 1
        stage.resumable = shared or any(copying.finished(file, partial) for file in work.files)
        raise


def _missing(files: Sequence[OutputFile], partial: Path) -> list[OutputFile]:
    return [file for file in files if copying.finished(file, partial) is None]


def _copy_missing(config: Conversion, work: Work, partial: Path) -> None:
    """This task's share of the files, without those that are finished."""
    mine = work.files[config.task :: config.tasks]
    missing = _missing(mine, partial)
    total, left = (sum(file.tensor_bytes for file in files) for files in (mine, missing))
    share = f", task {config.task} of {config.tasks}: {units.bytes_(total)}" if config.tasks > 1 else ""
    _say(f"{work.description}{share}")
    with progress.bar(f"convert {config.direction.value}", total=total, unit="B", done=total - left) as advance:
        copying.make(missing, partial, workers=config.workers, advance=advance)


def _all_there(work: Work, partial: Path) -> bool:
    missing = _missing(work.files, partial)
    if missing:
        _say(
            f"{len(missing):,} of {len(work.files):,} files are missing: other tasks make them; see their logs if none runs any "
            "more, and run again what failed"
        )
    return not missing


def _finish(config: Conversion, work: Work, out: Path, stage: artifacts.Stage) -> None:
    """Put together, check, publish."""
    partial = out / PARTIAL
    names = [*(file.name for file in work.files), *work.surround(partial)]
    stage.counts |= work.counts | _proof(config, work, partial)
    known = _checksums(work, partial)
    copying.remove_marks(work.files, partial)
    names += work.seal(partial, known, stage.counts)
    stage.known_sha256 |= {str(work.place / name): checksum.sha256 for name, checksum in known.items()}
    _publish(partial, out / work.place, names, last=work.last)
    work.announce(out)


def _checksums(work: Work, partial: Path) -> dict[str, Checksum]:
    marks = {file.name: copying.finished(file, partial) for file in work.files}
    return {name: Checksum(bytes=mark.bytes, sha256=mark.sha256) for name, mark in marks.items() if mark is not None}


def _publish(partial: Path, destination: Path, names: Sequence[str], *, last: str) -> None:
    """Move what was made to where it is looked for; without its last file nothing loads it."""
    destination.mkdir(parents=True, exist_ok=True)
    for name in sorted(names, key=lambda name: name == last):
        os.replace(partial / name, destination / name)
    artifacts.sync_directory(destination)
    shutil.rmtree(partial)


def _proof(config: Conversion, work: Work, partial: Path) -> dict[str, Any]:
    return {
        **({"checked_tensors": _checked(config, work, partial)} if config.check else {}),
        **({"largest_logit_difference": _logit_difference(config, work, partial)} if config.check_logits else {}),
    }


def _checked(config: Conversion, work: Work, partial: Path) -> int:
    """Every tensor of the source, read again, against the one that the inverse plan finds in what was written."""
    source, written = work.pairs(partial)
    total = sum(wanted.num_bytes for wanted in source)
    with progress.bar("check", total=total, unit="B") as advance:
        differing = check.differing(source, written, workers=config.workers, advance=advance)
    if differing:
        copying.remove_marks(work.files, partial)  # the next try writes all of them again
        raise ArtifactError(
            f"{len(differing):,} of {len(source):,} tensors were not written as they are in {config.source}: {listed(differing)}; "
            "a disk or memory fails, or the source was changed meanwhile: run it again"
        )
    _say(f"check: {len(source):,} tensors read again, all equal")
    return len(source)


def _logit_difference(config: Conversion, work: Work, partial: Path) -> float:
    checkpoint, hf_directory = work.sides(partial)
    largest = parity.largest_difference(
        work.model, checkpoint=checkpoint, hf_directory=hf_directory, tolerance=config.logit_tolerance
    )
    _say(f"check: logits differ by at most {largest:.3g} (allowed {config.logit_tolerance:g})")
    return largest


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(process.main(run, Conversion))
