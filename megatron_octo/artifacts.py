"""What every output directory carries, and when it counts as finished.

A stage directory holds the stage's files and one `stage.json`: resolved config, inputs by hash, outputs by hash, counts,
package versions, git commit, wall time. `stage.json` is written first with `done: false` and replaced, after everything else
reached the disk, by the one with `done: true`. So a directory is finished or it is not, and a rerun knows which.

    with artifacts.stage(out, kind="tokenize", config=config, inputs={"text": file}) as stage:
        if stage.done:                    # same config, same inputs: nothing to do
            return
        ...                               # write below stage.directory
        stage.counts["tokens"] = n

Stages that cannot resume are cleared before they start, so no half-written file of an earlier try survives. Stages that can
(`resumable=True`) keep what they find, provided config and inputs are still the same. Several machines may work in one
directory (`shared=True`): none clears it, and the one that finds everything made marks it done.

Inputs are known by their sha256. Raw corpora, which may be terabytes, are known by size and time of change, as `make` does.
"""

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from megatron_octo import units
from megatron_octo.config import at_run_time, differences, to_dict
from megatron_octo.errors import ArtifactError, ResourceError

MARK = "stage.json"
MARK_KEYS = {"done", "kind", "config", "inputs", "counts", "wall_seconds"}
#: Kept out of the outputs' hashes: what a stage says about itself rather than what it makes; so are hidden entries.
UNHASHED = "logs"
#: Packages whose versions decide the numbers; recorded where they are installed.
PACKAGES = (
    "megatron-octo", "megatron-core", "torch", "transformers", "trl", "tokenizers", "datasets", "math-verify", "numpy",
    "safetensors", "datatrove", "fasttext-numpy2-wheel", "resiliparse", "gigatoken", "fastokens", "sentencepiece", "tiktoken", "pyarrow", "transformer-engine", "flash-attn", "vllm", "openrlhf",
)  # fmt: skip


@runtime_checkable
class Continues(Protocol):
    """A config that knows when an earlier run with another one is its beginning, such as a training run with fewer tokens."""

    def continues(self, changed: Mapping[str, tuple[Any, Any]]) -> bool: ...


@dataclass
class Stage:
    """One stage directory while the stage runs. `counts` is what it did, in numbers, units in the keys."""

    directory: Path
    done: bool
    #: Whether what is there at a failure is kept for a rerun; a stage that has made nothing yet may say no.
    resumable: bool
    counts: dict[str, Any] = field(default_factory=dict)
    #: sha256 of outputs by relative path, where the stage knows them already; the others are hashed at the end.
    known_sha256: dict[str, str] = field(default_factory=dict)
    #: False while work is left, for other processes of a shared stage or for another time: the block may end and the stage is
    #: not marked done.
    complete: bool = True

    @property
    def logs(self) -> Path:
        """Where logs, event files and other side products go: never hashed, never an input."""
        path = self.directory / "logs"
        path.mkdir(exist_ok=True)
        return path


@contextlib.contextmanager
def stage(
    directory: Path,
    *,
    kind: str,
    config: Any,
    inputs: Mapping[str, Path | Mapping[str, Any]] | None = None,
    raw_inputs: Mapping[str, Path] | None = None,
    resumable: bool = False,
    shared: bool = False,
    force: bool = False,
    keep: Path | None = None,
    needs_bytes: int = 0,
) -> Iterator[Stage]:
    """Open a stage directory, check it against what is asked, and mark it done when the block ends without an exception.

    Args:
        inputs: files or finished stage directories by name; their hashes are recorded and compared on a rerun. One that is gone
            and no longer needed is given as the mark of the earlier try records it.
        raw_inputs: files too large to hash; their sizes and times of change are recorded, and compared once the stage is
            done. Until then they may change: a stage with raw inputs knows what each of its parts was made of.
        resumable: a rerun continues with what it finds.
        shared: other processes may have the same stage open now; `force` would destroy their work and is refused.
        force: forget what an earlier run with another config or other inputs left behind, and do it again.
        keep: a directory below the stage's that `force` leaves, because what is in it cost money and knows itself what it answers.
        needs_bytes: refuse to start with less free disk than this.
    Raises:
        ArtifactError: the directory was made with another config, other inputs or by another kind of stage; an input stage
            is not finished.
        ResourceError: too little disk.
    """
    if shared and force:
        raise ArtifactError(
            f"several processes share {directory}, and --force would clear it under the others; remove it yourself"
        )
    asked = {
        "kind": kind,
        "config": to_dict(config),
        "inputs": {
            name: _identify(source, raw=False) if isinstance(source, Path) else dict(source)
            for name, source in (inputs or {}).items()
        }
        | {name: _identify(path, raw=True) for name, path in (raw_inputs or {}).items()},
    }
    found = _own_mark(directory, kind=kind, force=force)
    _require_outside(directory, inputs or {}, raw_inputs or {})
    if found is None and shared:
        found = _create_mark(directory, asked)
    if found is not None:
        goes_on = _refuse_other(directory, found, asked, config)
        if found["done"] and not goes_on:
            yield Stage(directory=directory, done=True, resumable=resumable, counts=found["counts"])
            return
    require_disk(directory, needs_bytes)
    if not resumable or force:
        _put_aside(directory, keep)
        _clear(directory)
    directory.mkdir(parents=True, exist_ok=True)
    _put_back(directory, keep)
    started = time.time()
    carried = found["wall_seconds"] if found is not None and resumable else 0.0
    mark = {"done": False, **asked, "resumable": resumable, "counts": {}, "wall_seconds": carried}
    if not shared:
        write_json(directory / MARK, mark)
    current = Stage(directory=directory, done=False, resumable=resumable)
    try:
        yield current
    except BaseException:
        if not current.resumable:
            _clear(directory)
        # A resumed stage reports the time of all its tries.
        elif directory.is_dir() and not shared and not is_done(directory):
            with contextlib.suppress(OSError):  # such as a full disk, which is what the caller is about to say
                write_json(directory / MARK, mark | {"wall_seconds": carried + time.time() - started})
        raise
    if not current.complete:
        if not shared and not is_done(directory):
            write_json(directory / MARK, mark | {"wall_seconds": carried + time.time() - started})
        return
    write_json(
        directory / MARK,
        mark
        | {
            "done": True,
            "counts": current.counts,
            "outputs": hash_tree(directory, known=current.known_sha256),
            "versions": versions(),
            "git_commit": git_commit(),
            "finished_at": units.utc(time.time()),
            "wall_seconds": round(carried + time.time() - started, 3),
        },
    )


def is_finished(directory: Path, *, config: Any) -> bool:
    """Whether a directory holds this stage, done, from inputs that did not change since. Starts nothing, needs no torch.

    Raises:
        ArtifactError: it was made with another config or its inputs changed.
    """
    mark = read_mark(directory)
    if mark is None or _is_leftover(mark):
        return False
    plain = to_dict(config)
    moved = _moves(differences(mark["config"], plain))
    now = {name: _identify_again(source, moved, done=mark["done"]) for name, source in mark["inputs"].items()}
    asked = {"kind": mark["kind"], "config": plain, "inputs": now}
    goes_on = _refuse_other(directory, mark, asked, config)
    return bool(mark["done"]) and not goes_on


def read_mark(directory: Path) -> dict[str, Any] | None:
    """The `stage.json` of a directory, or None where there is none. Raises `ArtifactError` if it cannot be read."""
    file = directory / MARK
    if not file.exists():
        return None
    try:
        mark = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file} cannot be read ({error}); pass --force to redo the stage") from error
    if not isinstance(mark, dict) or not mark.keys() >= MARK_KEYS:
        raise ArtifactError(f"{file} cannot be read (not the mark of a stage); pass --force to redo the stage")
    return mark


def finished(directory: Path) -> dict[str, Any]:
    """The mark of a finished stage. Raises `ArtifactError` where the stage is missing or unfinished."""
    mark = read_mark(directory)
    if mark is None:
        raise ArtifactError(f"{directory} is no stage directory (no {MARK}); run the stage that makes it first")
    if not mark["done"]:
        raise ArtifactError(
            f"the {mark['kind']} stage in {directory} did not finish; run it again, it continues where it can"
        )
    return mark


def fingerprint(path: Path) -> str:
    """sha256 of a file's bytes, or of the output hashes of a finished stage directory, or of a plain directory's files."""
    if path.is_file():
        return hash_file(path)
    if not path.exists():
        raise ArtifactError(f"input {path} does not exist")
    outputs = finished(path)["outputs"] if (path / MARK).exists() else hash_tree(path)
    return hashlib.sha256(json.dumps(outputs, sort_keys=True).encode()).hexdigest()


def _identify_again(source: Mapping[str, Any], moved: Mapping[str, str], *, done: bool) -> dict[str, Any]:
    """An input's identity now, where the config names it now. What a finished stage was made from may be gone: that changes nothing
    in what it made; what is gone from a new place was never seen there."""
    path = _at(Path(source["path"]), moved)
    if done and not path.exists():
        return dict(source)
    return _identify(path, raw="sha256" not in source)


def _moves(changed: Iterable[tuple[str, Any, Any]]) -> dict[str, str]:
    """What may be a place in a config, and is another one now."""
    return {old: new for _, old, new in changed if old and new and isinstance(old, str) and isinstance(new, str)}


def _at(path: Path, moved: Mapping[str, str]) -> Path:
    """Where the config names an input now, such as in a run that was moved."""
    old = max((old for old in moved if path.is_relative_to(old)), key=len, default=None)
    return path if old is None else Path(moved[old]) / path.relative_to(old)


def _identify(path: Path, *, raw: bool) -> dict[str, Any]:
    """What an input is recorded as and recognised by."""
    if not raw:
        return {"path": str(path), "sha256": fingerprint(path)}
    if not path.is_file():
        raise ArtifactError(f"input {path} does not exist")
    found = path.stat()
    return {"path": str(path), "bytes": found.st_size, "modified_ns": found.st_mtime_ns}


def hash_tree(directory: Path, *, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """sha256 of every file below a directory by relative path; marks, logs and hidden files are left out."""
    entries = (path for path in directory.iterdir() if path.name != UNHASHED and not path.name.startswith("."))
    files = (file for entry in entries for file in ([entry] if entry.is_file() else entry.rglob("*")) if file.is_file())
    return {
        str(file.relative_to(directory)): (known or {}).get(str(file.relative_to(directory))) or hash_file(file)
        for file in sorted(files)
        if file.name != MARK
    }


def hash_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that a reader, or a crash, sees the old file or the new one and nothing between."""
    # A name of its own: others may write the same file at the same time.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("w") as stream:
            json.dump(data, stream, indent=2)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


@contextlib.contextmanager
def appearing(file: Path) -> Iterator[Path]:
    """A name to write to: the file appears under its own when all of it is there, and not at all where that fails."""
    temporary = file.with_name(f".{file.name}.tmp")
    yield temporary
    os.replace(temporary, file)


def sync_directory(directory: Path) -> None:
    """Make a rename inside `directory` survive a power cut."""
    sync_file(directory)


def sync_file(path: Path) -> None:
    """Make a file's bytes survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def one_at_a_time(directory: Path) -> Iterator[None]:
    """Processes that share a stage and see its last part made at the same moment put it together one after the other."""
    file = directory / ".finishing"
    try:
        with _locked(file, fcntl.LOCK_EX):
            yield
    finally:
        # Not before: whoever waits for it would let in one who makes it anew. Afterwards all of them see that it is done.
        if is_done(directory):
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(file: Path, *, shared: bool) -> Iterator[None]:
    """Keep out a second process that would do the same work, or with `shared` one that does not share it.

    Args:
        file: what is locked, in the directory of the work; made, and left there.

    Raises `ArtifactError` where another process is at work.
    """
    try:
        with _locked(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB):
            yield
    except BlockingIOError as error:
        raise ArtifactError(
            f"another process is at work in {file.parent}; wait for it, or name another directory"
        ) from error


@contextlib.contextmanager
def _locked(file: Path, how: int) -> Iterator[None]:
    """A regular file, open for writing: network file systems lock nothing else for all machines. Those without locks let everybody in."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, how)
        except OSError as error:
            if isinstance(error, BlockingIOError):
                raise
        yield
    finally:
        os.close(descriptor)


def is_done(directory: Path) -> bool:
    """Whether the stage of a directory is done, such as by another process that shares it."""
    mark = read_mark(directory)
    return mark is not None and bool(mark["done"])


def add_counts(directory: Path, counts: Mapping[str, Any]) -> None:
    """Note more about a finished stage, such as a proof that was asked for later."""
    if counts:
        found = finished(directory)
        write_json(directory / MARK, found | {"counts": found["counts"] | dict(counts)})


def require_disk(directory: Path, needs_bytes: int) -> None:
    """Raises `ResourceError` when the file system of `directory` has less than `needs_bytes` free."""
    free = free_bytes(directory)
    if free < needs_bytes:
        raise ResourceError(
            f"{directory} needs {units.bytes_(needs_bytes)} of disk, {units.bytes_(free)} are free there; "
            "make room or name a directory on another disk"
        )


def free_bytes(directory: Path) -> int:
    """Free disk where `directory` is or would be made."""
    place = directory.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def git_commit() -> str | None:
    """The commit our code runs from (`+changes` when it was edited since), None for an installed wheel."""
    here = Path(__file__).parent
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty=+changes", "--abbrev=40", "--exclude=*"],
            cwd=here, capture_output=True, text=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() or None if run.returncode == 0 else None


def _own_mark(directory: Path, *, kind: str, force: bool) -> dict[str, Any] | None:
    """The mark of an earlier try, unless `force` forgets it. Not even `force` clears what is not a stage of this kind."""
    if directory.is_file():
        raise ArtifactError(f"{directory} is a file; name a directory to make")
    if _is_somebody_elses(directory):
        raise ArtifactError(f"{directory} is not empty and no stage of ours made it; name another directory")
    try:
        mark = read_mark(directory)
    except ArtifactError:
        if force:
            return None
        raise
    if mark is not None and mark["kind"] != kind:
        raise ArtifactError(f"{directory} holds a {mark['kind']} stage, not {kind}; name another directory")
    return None if force or (mark is not None and _is_leftover(mark)) else mark


def _is_somebody_elses(directory: Path) -> bool:
    """Whether something is there. The mark that another process of a shared stage is just writing is not."""
    if not directory.exists():
        return False
    if not directory.is_dir():
        return True
    # The mark is looked for last: files beside it come after it.
    return any(not path.match(f".*{MARK}.*.tmp") for path in directory.iterdir()) and not (directory / MARK).exists()


def _create_mark(directory: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The mark of a shared stage: whoever comes first writes it, the others take it as it is by then."""
    directory.mkdir(parents=True, exist_ok=True)
    mine = directory / f".{MARK}.{uuid.uuid4().hex[:8]}.tmp"
    write_json(mine, {"done": False, **asked, "resumable": True, "counts": {}, "wall_seconds": 0.0})
    try:
        os.link(mine, directory / MARK)  # unlike a rename it replaces nothing
    except FileExistsError:
        pass
    finally:
        mine.unlink()
    found = read_mark(directory)
    assert found is not None
    return found


def _is_leftover(mark: Mapping[str, Any]) -> bool:
    """Whether a stage that does not resume was killed: nothing of it counts, it may be made with any config."""
    return not mark["done"] and not mark["resumable"]


def _put_aside(directory: Path, keep: Path | None) -> None:
    """What outlives the clearing waits beside the stage; after a kill the next try finds it there."""
    if keep is not None and (directory / keep).exists():
        waiting = _waiting(directory)
        shutil.rmtree(waiting, ignore_errors=True)
        shutil.move(directory / keep, waiting)


def _put_back(directory: Path, keep: Path | None) -> None:
    if keep is not None and (waiting := _waiting(directory)).exists():
        (directory / keep).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(waiting, directory / keep)


def _waiting(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.kept")


def _clear(directory: Path) -> None:
    """Remove a stage directory; a kill meanwhile leaves either all of it or none under its name."""
    if directory.exists():
        old = directory.with_name(f".{directory.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        try:
            os.replace(directory, old)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            _empty(directory)  # a mount point, such as a container's volume
        shutil.rmtree(old, ignore_errors=True)


def _empty(directory: Path) -> None:
    """The mark goes last: until then the directory is known as ours."""
    for path in sorted(directory.iterdir(), key=lambda path: path.name == MARK):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _require_outside(directory: Path, *inputs: Mapping[str, Path | Mapping[str, Any]]) -> None:
    """What is read may not lie in what is made: it would be cleared, or changed while it is read."""
    for path in (path for paths in inputs for path in paths.values() if isinstance(path, Path)):
        if path.resolve().is_relative_to(directory.resolve()):
            raise ArtifactError(f"the input {path} lies in the directory to make, {directory}; name another directory")


def _refuse_other(directory: Path, found: Mapping[str, Any], asked: Mapping[str, Any], config: Any) -> bool:
    """Whether the earlier run is the beginning of what is asked (`Continues`). Raises `ArtifactError` where it is another one."""
    state = "finished" if found["done"] else "started"
    ignored = at_run_time(config)
    differing = list(differences(found["config"], asked["config"]))
    moved = _moves(differing)
    changed = {
        path: (old, new)
        for path, old, new in differing
        if not (isinstance(old, str) and moved.get(old) == new and _are_there(moved, old, found, asked))
        and not any(path == field or path.startswith((f"{field}.", f"{field}[")) for field in ignored)
    }
    goes_on = bool(changed) and isinstance(config, Continues) and config.continues(changed)
    if changed and not goes_on:
        listed = "\n".join(f"  {path}: {old!r} -> {new!r}" for path, (old, new) in changed.items())
        raise ArtifactError(
            f"the {asked['kind']} stage in {directory} was {state} with another config:\n{listed}\n"
            "name another directory to keep both, or pass --force to redo it"
        )
    for name in found["inputs"] | asked["inputs"]:
        old, new = found["inputs"].get(name, {}), asked["inputs"].get(name, {})
        open_and_raw = not found["done"] and "sha256" not in old | new
        if _without_path(old) != _without_path(new) and not open_and_raw:
            raise ArtifactError(
                f"the {asked['kind']} stage in {directory} was {state} with another input '{name}' "
                f"({(new or old)['path']}): {spell_input(old)} -> {spell_input(new)}; pass --force to redo it"
            )
    return goes_on


def _are_there(moved: Mapping[str, str], old: str, found: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether the inputs that were at `old` are where it moved: another place alone makes no other stage. That they are the same is
    compared after the config; of raw inputs only once the stage is done."""
    sources = {name: source for name, source in found["inputs"].items() if Path(source["path"]).is_relative_to(old)}
    return bool(sources) and all(
        asked["inputs"].get(name, {}).get("path") == str(_at(Path(source["path"]), moved))
        and ("sha256" in source or found["done"])
        for name, source in sources.items()
    )


def _without_path(source: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in source.items() if key != "path"}


def spell_input(source: Mapping[str, Any]) -> str:
    """An input's identity as a mark records it, short enough to read."""
    if "sha256" in source:
        return f"sha256 {source['sha256'][:12]}"
    return f"{source['bytes']:,} bytes of {units.utc(source['modified_ns'] / 1e9)}" if source else "none"
