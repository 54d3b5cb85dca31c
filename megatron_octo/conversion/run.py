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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from megatron_octo import artifacts, process, progress, units
from megatron_octo.checksums import Checksum
from megatron_octo.conversion import copying, proofs
from megatron_octo.conversion.config import Conversion, Direction
from megatron_octo.conversion.exporting import Export
from megatron_octo.conversion.importing import Import
from megatron_octo.conversion.plan import OutputFile
from megatron_octo.errors import ArtifactError, listed

PARTIAL = ".partial"
#: Held by the processes that work there.
LOCK = ".lock"
Work = Export | Import


def run(config: Conversion, out: Path, force: bool) -> None:
    process.allow_open_files()
    work: Work = Export(config) if config.direction is Direction.TO_HF else Import(config)
    proofs.require_possible(config, work)
    # What the stack holds ends after the stage is marked done: locks, and the marks of the files.
    with contextlib.ExitStack() as until_marked_done, artifacts.stage(
        out, kind="convert", config=config, inputs=work.inputs, raw_inputs=work.raw_inputs, resumable=True,
        shared=config.tasks > 1, force=force, needs_bytes=_needed_bytes(work, out),
    ) as stage:  # fmt: skip
        if stage.done:
            artifacts.add_counts(out, proofs.missing(config, work, out / work.place, stage.counts))
            return
        partial = out / PARTIAL
        partial.mkdir(exist_ok=True)
        until_marked_done.callback(_remove_when_done, out, partial)
        until_marked_done.enter_context(artifacts.alone(partial / LOCK, shared=config.tasks > 1))
        with _kept_if_worth_it(work, partial, stage):
            if not artifacts.is_done(out):
                _make(config, work, out)
            until_marked_done.enter_context(artifacts.one_at_a_time(out))
            stage.complete = not artifacts.is_done(out) and _all_there(work, partial)
            if stage.complete:
                _finish(config, work, out, stage)


def _needed_bytes(work: Work, out: Path) -> int:
    """Disk that is still taken: what a killed try has written, and moved already, is there."""
    return sum(copying.missing_bytes(file, out / PARTIAL) for file in work.files if not _was_moved(file, work, out))


def _was_moved(file: OutputFile, work: Work, out: Path) -> bool:
    """Whether a try that was killed while it published had moved a finished file."""
    partial = out / PARTIAL
    moved, here = out / work.place / file.name, partial / file.name
    return moved.is_file() and not here.exists() and copying.mark(file, partial).exists()


@contextlib.contextmanager
def _kept_if_worth_it(work: Work, partial: Path, stage: artifacts.Stage) -> Iterator[None]:
    """A try that fails before it has finished a file leaves nothing behind, unless other tasks work there."""
    try:
        yield
    except BaseException:
        shared = work.config.tasks > 1
        stage.resumable = shared or any(copying.mark(file, partial).exists() for file in work.files)
        raise


def _remove_when_done(out: Path, partial: Path) -> None:
    if artifacts.is_done(out):
        shutil.rmtree(partial, ignore_errors=True)


def _missing(files: Sequence[OutputFile], partial: Path) -> list[OutputFile]:
    return [file for file in files if copying.finished(file, partial) is None]


def _make(config: Conversion, work: Work, out: Path) -> None:
    if config.tasks == 1:  # another task may be publishing just now
        _take_back(work, out)
    _copy_missing(config, work, out / PARTIAL)


def _take_back(work: Work, out: Path) -> None:
    """Undo the moves of a try that was killed while it published; first of all, that the files could be loaded."""
    (out / work.place / work.last).unlink(missing_ok=True)
    for file in work.files:
        if _was_moved(file, work, out):
            os.replace(out / work.place / file.name, out / PARTIAL / file.name)


def _copy_missing(config: Conversion, work: Work, partial: Path) -> None:
    """This task's share of the files, without those that are finished."""
    mine = work.files[config.task :: config.tasks]
    missing = _missing(mine, partial)
    total, left = (sum(file.size for file in files) for files in (mine, missing))
    share = f", task {config.task} of {config.tasks}: {units.bytes_(total)}" if config.tasks > 1 else ""
    _say(f"{work.description}{share}")
    with progress.bar(f"convert {config.direction.value}", total=total, unit="B", done=total - left) as advance:
        copying.make(missing, partial, workers=config.workers, advance=advance)


def _all_there(work: Work, partial: Path) -> bool:
    missing = _missing(work.files, partial)
    if missing:
        _say(
            f"{len(missing):,} of {units.counted(len(work.files), 'file')} missing: other tasks make them; see their logs if none runs any "
            "more, and run again what failed"
        )
    return not missing


def _finish(config: Conversion, work: Work, out: Path, stage: artifacts.Stage) -> None:
    """Put together, check, publish."""
    partial = out / PARTIAL
    _remove_others(work, partial)
    known = _checksums(work, partial)
    surroundings = work.surround(partial)
    try:
        stage.counts |= work.counts | proofs.missing(config, work, partial, {})
    except ArtifactError:
        copying.remove_marks(work.files, partial)  # the next try writes all of them again
        raise
    surroundings += work.seal(partial, known, stage.counts)
    stage.known_sha256 |= {str(work.place / name): checksum.sha256 for name, checksum in known.items()}
    copying.require_same_sources(work.files)
    _clear_leftovers(work, out)
    _publish(partial, out / work.place, [*known, *surroundings], last=work.last)
    _require_published(known, out / work.place)
    work.announce(out)


def _remove_others(work: Work, partial: Path) -> None:
    """Leave the finished files and their marks: others are of an earlier try, perhaps with another plan."""
    ours = {path.name for file in work.files for path in (partial / file.name, copying.mark(file, partial))}
    for path in partial.iterdir():
        if path.name not in ours | {LOCK}:
            path.unlink(missing_ok=True)


def _checksums(work: Work, partial: Path) -> dict[str, Checksum]:
    """Raises `ArtifactError` where a file is not finished any more."""
    marks = {file.name: copying.finished(file, partial) for file in work.files}
    if gone := [name for name, mark in marks.items() if mark is None]:
        raise ArtifactError(f"{listed(gone)} in {partial} changed meanwhile; is another process at work? Run it again")
    return {name: Checksum(bytes=mark.bytes, sha256=mark.sha256) for name, mark in marks.items() if mark is not None}


def _clear_leftovers(work: Work, out: Path) -> None:
    """Weights that a try which was killed while it published had moved already, perhaps with another plan."""
    for pattern in work.leftovers:
        for path in out.glob(pattern):
            path.unlink()


def _publish(partial: Path, destination: Path, names: Sequence[str], *, last: str) -> None:
    """Move what was made to where it is looked for; without its last file nothing loads it."""
    destination.mkdir(parents=True, exist_ok=True)
    for name in sorted(names, key=lambda name: name == last):
        artifacts.sync_file(partial / name)
        os.replace(partial / name, destination / name)
    artifacts.sync_directory(destination)


def _require_published(known: Mapping[str, Checksum], directory: Path) -> None:
    """Raises `ArtifactError` where a weights file is not in its place: a model without it may not be called done."""
    there = {path.name: path.stat().st_size for path in directory.iterdir()}
    if lost := [name for name, checksum in known.items() if there.get(name) != checksum.bytes]:
        raise ArtifactError(f"{listed(lost)} in {directory} went missing; is another process at work? Run it again")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(process.main(run, Conversion))
