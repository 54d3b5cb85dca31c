"""Steps over documents: datatrove pipelines in parts, as stages that continue where a kill left them.

    with parts.opened(out, kind="relevant", config=config, inputs={...}, force=force) as stage:
        if stage.done:
            return
        parts.make(stage, config, [documents.read(config.documents), Relevant(...), documents.write(out)])

datatrove marks a part when it is done and its files are closed (OUT/logs/<name>/completions), and begins an unmarked one anew, which
overwrites what it left. A part depends on its documents alone, so the output does not depend on who made it, when, or on which try.
The tasks of an array share the parts of one stage; the one that finds all of them made sums up what datatrove counted.
"""

import contextlib
import functools
import io
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_octo import artifacts, progress, workers
from megatron_octo.curation.config import Executor, InParts
from megatron_octo.errors import ResourceError

try:
    import dill
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.executor.base import DistributedEnvVars, PipelineExecutor
    from datatrove.pipeline.base import PipelineStep
    from loguru import logger
except ImportError as error:
    raise ResourceError(f"curation needs datatrove ({error}): pip install megatron-octo[curate]") from error

#: The `type` of steps whose statistics become the stage's counts, as `{name}_{what}`.
OURS = "octo"
#: Between looks at how many parts are done.
POLL_SECONDS = 0.5


def say(message: str) -> None:
    """To whoever watches a stage, and its log."""
    print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def opened(
    out: Path,
    *,
    kind: str,
    config: InParts,
    inputs: Mapping[str, Path],
    raw_inputs: Mapping[str, Path] | None = None,
    force: bool,
    keep: Path | None = None,
) -> Iterator[artifacts.Stage]:
    """`artifacts.stage` for a step in parts: done when all parts of all pipelines begun here are, whoever made them."""
    with contextlib.ExitStack() as until_marked_done, artifacts.stage(
        out, kind=kind, config=config, inputs=inputs, raw_inputs=raw_inputs, resumable=True, shared=config.tasks > 1,
        force=force, keep=keep,
    ) as stage:  # fmt: skip
        yield stage
        if not stage.done:
            until_marked_done.enter_context(artifacts.one_at_a_time(out))
            stage.complete = _all_made(stage) and not artifacts.is_done(out)
            if stage.complete:
                stage.counts |= _counts(stage)


def make(
    stage: artifacts.Stage,
    config: InParts,
    pipeline: Sequence[PipelineStep],
    *,
    name: str = "documents",
    parts: int | None = None,
) -> None:
    """Make this task's share of the parts of a pipeline; those that are made already are passed over.

    Args:
        name: of the pipeline, where a stage has several.
        parts: how many; None for as many as the documents have.
    Raises what a part raises; the others are ended, and begun anew by the next try.
    """
    parts = config.parts if parts is None else parts
    logs = stage.logs / name
    logs.mkdir(exist_ok=True)
    artifacts.write_json(logs / "parts.json", {"parts": parts})
    share = range(parts * config.task // config.tasks, parts * (config.task + 1) // config.tasks)
    missing = [part for part in share if not _is_made(logs, part)]
    if not missing:
        return
    what = f"{stage.directory.name} {name}"
    if config.executor is Executor.RAY:
        with _shown(what, logs, share):
            _ray_executor(pipeline, logs, parts, config.workers).run()
        return
    work = functools.partial(_make_part, dill.dumps(list(pipeline)), parts, logs)
    with progress.bar(what, total=len(share), unit="parts", done=len(share) - len(missing)) as advance:
        workers.each(work, missing, num_workers=config.workers, on_progress=advance)


def _make_part(pipeline: bytes, parts: int, logs: Path, part: int) -> None:
    """In a worker."""
    logger.remove()  # the part's log file has all that datatrove says
    _OnePart(dill.loads(pipeline), parts=parts, part=part, logs=logs).run()  # noqa: S301 - pickled a moment ago, by us
    workers.advance(1)


class _OnePart(PipelineExecutor):  # type: ignore[misc]
    """One of datatrove's tasks in this process, with its marks, statistics and log.

    Its local executor would run several, in a pool that waits for ever for a worker that was killed, such as when memory runs out.
    """

    def __init__(self, pipeline: Sequence[PipelineStep], *, parts: int, part: int, logs: Path) -> None:
        super().__init__(pipeline, str(logs))
        self._parts, self._part = parts, part

    def run(self) -> None:
        # All that datatrove says is in the part's log file; it would print errors with their tracebacks besides.
        with contextlib.redirect_stderr(io.StringIO()):
            self._run_for_rank(self._part, local_rank=1)

    @property
    def world_size(self) -> int:
        return self._parts

    def get_distributed_env(self, node_rank: int = -1) -> DistributedEnvVars:
        return LocalPipelineExecutor.get_distributed_env(self, node_rank)


def _ray_executor(pipeline: Sequence[PipelineStep], logs: Path, parts: int, workers: int) -> Any:
    from datatrove.executor.ray import RayPipelineExecutor

    try:
        import ray
    except ImportError as error:
        raise ResourceError(
            f"executor=ray needs Ray ({error}): pip install ray, or leave the executor local"
        ) from error
    if not ray.is_initialized():
        ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False)
    return RayPipelineExecutor(pipeline=list(pipeline), tasks=parts, workers=workers, logging_dir=str(logs))


@contextlib.contextmanager
def _shown(what: str, logs: Path, share: range) -> Iterator[None]:
    """A bar of finished parts, whoever finishes them."""
    over = threading.Event()
    done = _num_made(logs, share)

    def watch() -> None:
        shown = done
        with progress.bar(what, total=len(share), unit="parts", done=done) as advance:
            while not over.wait(POLL_SECONDS):
                now = _num_made(logs, share)
                advance(now - shown)
                shown = now
            advance(_num_made(logs, share) - shown)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _is_made(logs: Path, part: int) -> bool:
    return (logs / "completions" / f"{part:05d}").exists()


def _num_made(logs: Path, share: range) -> int:
    return sum(_is_made(logs, part) for part in share)


def _pipelines(stage: artifacts.Stage) -> dict[Path, int]:
    """Folders of the pipelines begun in this stage, in the order of their names, with the number of their parts."""
    return {file.parent: json.loads(file.read_text())["parts"] for file in sorted(stage.logs.glob("*/parts.json"))}


def _all_made(stage: artifacts.Stage) -> bool:
    return all(_num_made(logs, range(parts)) == parts for logs, parts in _pipelines(stage).items())


def _counts(stage: artifacts.Stage) -> dict[str, Any]:
    """What the steps of this package counted, over all parts: `{step}_{what}`."""
    counts: Counter[str] = Counter()
    for logs in _pipelines(stage):
        for file in sorted((logs / "stats").glob("*.json")):
            for step in json.loads(file.read_text()):
                counts.update(_of_step(step))
    return dict(sorted(counts.items()))


def _of_step(step: Mapping[str, Any]) -> dict[str, int]:
    """datatrove writes a plain number where every value was 1."""
    kind, _, name = step["name"].partition(": ")
    if kind != OURS:
        return {}
    return {
        f"{name}_{what}": int(value["total"] if isinstance(value, dict) else value)
        for what, value in step["stats"].items()
    }
