"""One corpus to Megatron shards: Tokenization -> OUT/<corpus>-00000.bin, .idx, ... and manifest.json.

Input files are cut into pieces; each piece becomes one shard, written by one worker process, without a common writer and without a
merge. With a shuffle (the default) the pieces are spread over shards in a second pass, see `shuffle.py`.
What is under way lies in OUT/.work and is removed at the end; a killed run continues at the pieces that were not finished.

Several machines, or the tasks of a Slurm array, run the same command with `tasks` and `task` set: each makes its share, and the one
that finds nothing missing writes the manifest. A shuffle needs all pieces first, so an array with a shuffle runs twice.
"""

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

from megatron_octo import artifacts, process, progress, units, workers
from megatron_octo.config import to_dict
from megatron_octo.errors import CorpusError
from megatron_octo.shards import MANIFEST, Manifest, Shard, token_dtype
from megatron_octo.tokenization import encoding, gathering
from megatron_octo.tokenization import plan as plans
from megatron_octo.tokenization.checking import CheckedEngine
from megatron_octo.tokenization.config import Tokenization
from megatron_octo.tokenization.encoding import PieceJob
from megatron_octo.tokenization.engines import open_engine
from megatron_octo.tokenization.gathering import ShardJob
from megatron_octo.tokenization.identity import tokenizer_files
from megatron_octo.tokenization.marks import Mark, Tally
from megatron_octo.tokenization.plan import SKIPPED, WORK, Plan

Job = TypeVar("Job", PieceJob, ShardJob)
Found = TypeVar("Found")


def run(config: Tokenization, out: Path, force: bool) -> None:
    workers.one_thread_each()
    engine = open_engine(
        config.tokenizer, config.engine, check_every=config.check_every, max_mismatch_share=config.max_mismatch_share
    )
    plan = plans.make(config, out, engine)
    texts = {f"text_{index}": path for index, path in enumerate(plan.files)}
    with contextlib.ExitStack() as until_marked_done, artifacts.stage(
        out, kind="tokenize", config=config, inputs=tokenizer_files(config.tokenizer), raw_inputs=texts,
        resumable=True, shared=config.tasks > 1, force=force,
    ) as stage:  # fmt: skip
        if not stage.done:
            _say(_decided(plan, engine))
            with _kept_if_worth_it(plan, stage), encoding.full_disk_explained(out / MANIFEST):
                made = _make(plan)
                until_marked_done.enter_context(artifacts.one_at_a_time(out))
                stage.complete = made is not None and not artifacts.is_done(plan.out)
                if made is not None and stage.complete:
                    _finish(plan, engine, made, stage)
    if stage.done or stage.complete:
        shutil.rmtree(out / WORK, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class Made:
    """A whole corpus: the marks of all its pieces, and its shards."""

    pieces: list[Mark]
    shards: list[Shard]


@contextlib.contextmanager
def _kept_if_worth_it(plan: Plan, stage: artifacts.Stage) -> Iterator[None]:
    """A first try that fails before it has made anything leaves no started stage behind, unless other tasks work in it."""
    continued = (plan.out / WORK).exists()
    try:
        yield
    except BaseException:
        marks = (encoding.finished(job) for job in plan.encode)
        made = any(mark and mark.tally.documents for mark in marks)
        stage.resumable = continued or made or plan.config.tasks > 1
        raise


def _decided(plan: Plan, engine: CheckedEngine) -> str:
    config, how = plan.config, plan.how
    size = sum(file.stat().st_size for file in plan.files)
    order = "in the order of the input" if how.shuffle_seed is None else f"shuffled with seed {how.shuffle_seed}"
    shards = len(plan.encode) if how.shuffle_seed is None else plan.num_shards
    share = f", task {config.task} of {config.tasks}" if config.tasks > 1 else ""
    return (
        f"tokenize {config.corpus}: {len(plan.files):,} files, {units.bytes_(size)}, in {len(plan.encode):,} pieces, to {shards:,} "
        f"shards of {token_dtype(how.vocab_size).name}, documents {order}\n"
        f"  {engine.name} {engine.version}, vocabulary {how.vocab_size:,}; BOS {_or_none(how.before)}, "
        f"EOD {_or_none(how.after)}; {config.workers} workers{share}"
    )


def _or_none(token_id: int | None) -> str:
    return "none" if token_id is None else str(token_id)


def _make(plan: Plan) -> Made | None:
    """Make this task's share of what is missing. None while the work of other tasks is missing."""
    (plan.out / WORK).mkdir(exist_ok=True)
    sizes = [job.piece.bytes for job in plan.encode]
    _do_missing(plan, plan.encode, sizes, encoding.finished, encoding.encode, what="tokenize", unit="B")
    pieces = _all_or_none(plan, plan.encode, encoding.finished, "pieces")
    if pieces is None:
        return None
    if plan.how.shuffle_seed is None:
        return Made(pieces=pieces, shards=[mark.shard for mark in pieces if mark.shard is not None])
    jobs = plan.gather(pieces)
    # Buckets are drawn with equal chances: shards come out nearly equal.
    tokens = sum(mark.tally.tokens for mark in pieces) // len(jobs)
    _do_missing(plan, jobs, [tokens] * len(jobs), gathering.finished, gathering.gather, what="shuffle", unit="tokens")
    shards = _all_or_none(plan, jobs, gathering.finished, "shuffled shards")
    # Once more: a task that was started with other inputs may have made pieces anew meanwhile.
    same = _all_or_none(plan, plan.encode, encoding.finished, "pieces") == pieces
    return Made(pieces=pieces, shards=shards) if shards is not None and same else None


def _do_missing(
    plan: Plan,
    jobs: Sequence[Job],
    sizes: Sequence[int],
    finished: Callable[[Job], object],
    work: Callable[[Job], None],
    *,
    what: str,
    unit: str,
) -> None:
    """This task's share of the jobs, without those that are finished."""
    mine = plans.share(sizes, plan.config)
    missing = [index for index in mine if finished(jobs[index]) is None]
    # In this order: another task that has finished everything removes the marks after it has said so.
    if not missing or artifacts.is_done(plan.out):
        return
    total = sum(sizes[index] for index in mine)
    done = total - sum(sizes[index] for index in missing)
    with progress.bar(f"{what} {plan.config.corpus}", total=total, unit=unit, done=done) as advance:
        workers.each(work, [jobs[index] for index in missing], num_workers=plan.config.workers, on_progress=advance)


def _all_or_none(
    plan: Plan, jobs: Sequence[Job], finished: Callable[[Job], Found | None], what: str
) -> list[Found] | None:
    """What all tasks together have made; None, and a word about it, while some is missing."""
    there, missing = [], []
    for job in jobs:
        found = finished(job)
        missing += [job] if found is None else []
        there += [found] if found is not None else []
    if not missing:
        return there
    if not artifacts.is_done(plan.out):
        _say(f"{plan.config.corpus}: {len(missing):,} of {len(jobs):,} {what} are missing{_why(plan, missing)}")
    return None


def _why(plan: Plan, missing: Sequence[Job]) -> str:
    otherwise = sum(job.mark.exists() for job in missing)
    if otherwise:
        return (
            f", {otherwise:,} of them made from other input or with another engine or version than this task has "
            f"({plan.how.engine.value} {plan.how.engine_version}); give all tasks one --engine and run them again"
        )
    again = "" if plan.how.shuffle_seed is None else ", and run all again when they have ended, for the shuffle"
    return f": other tasks make them{again}; see their logs if none runs any more"


def _finish(plan: Plan, engine: CheckedEngine, made: Made, stage: artifacts.Stage) -> None:
    """The manifest, and the counts of the stage. Raises `CorpusError` where the corpus has no text at all."""
    tallies = [mark.tally for mark in made.pieces]
    totals = Tally(**{item.name: sum(getattr(tally, item.name) for tally in tallies) for item in fields(Tally)})
    if not totals.documents:
        raise CorpusError(f"{', '.join(map(str, plan.config.inputs))}: no document with text in it")
    engine.judge(totals.mismatched_documents, totals.checked_documents)
    shards = tuple(shard for shard in made.shards if shard.tokens)
    _remove_others(plan, shards)
    _number_skipped(plan, tallies)
    artifacts.write_json(plan.out / MANIFEST, to_dict(_manifest(plan, engine, totals, shards)))
    for shard in shards:
        stage.known_sha256 |= {f"{shard.name}.bin": shard.bin_sha256, f"{shard.name}.idx": shard.idx_sha256}
    stage.counts |= vars(totals)
    _say(_summary(plan, totals))


def _remove_others(plan: Plan, shards: Sequence[Shard]) -> None:
    """Shards without text, of which no memory map exists, those of an earlier try with more pieces, and what was cut short."""
    kept = {name for shard in shards for name in (f"{shard.name}.bin", f"{shard.name}.idx")}
    for path in [path for pattern in ("*.bin", "*.idx", ".*.tmp") for path in plan.out.glob(pattern)]:
        if path.name not in kept:
            path.unlink(missing_ok=True)


def _number_skipped(plan: Plan, tallies: Sequence[Tally]) -> None:
    """Skipped lines of all pieces, numbered as in their files: a piece counts its own lines only."""
    shutil.rmtree(plan.out / SKIPPED, ignore_errors=True)
    before = 0
    for job, tally in zip(plan.encode, tallies, strict=True):
        before = 0 if job.piece.part == 0 else before
        if tally.skipped_lines:
            (plan.out / SKIPPED).mkdir(exist_ok=True)
            with job.skipped.open() as source, (plan.out / SKIPPED / f"{job.index:05d}.jsonl").open("w") as target:
                for line in map(json.loads, source):
                    target.write(json.dumps(line | {"number": line["number"] + before}) + "\n")
        before += tally.lines


def _manifest(plan: Plan, engine: CheckedEngine, totals: Tally, shards: tuple[Shard, ...]) -> Manifest:
    config = plan.config
    return Manifest(
        corpus=config.corpus,
        tokenizer_sha256=plan.how.tokenizer_sha256,
        vocab_size=engine.vocab_size,
        engine=engine.name,
        engine_version=engine.version,
        bos_id=engine.bos_id,
        eos_id=engine.eos_id,
        prepend_bos=config.prepend_bos,
        append_eod=config.append_eod,
        shuffle_seed=config.shuffle_seed,
        documents=totals.documents,
        empty_documents=totals.empty_documents,
        skipped_lines=totals.skipped_lines,
        checked_documents=totals.checked_documents,
        mismatched_documents=totals.mismatched_documents,
        tokens=totals.tokens,
        text_bytes=totals.text_bytes,
        shards=shards,
    )


def _summary(plan: Plan, totals: Tally) -> str:
    skipped = f"; {totals.skipped_lines:,} bad lines in {plan.out / SKIPPED}" if totals.skipped_lines else ""
    empty = f"; {totals.empty_documents:,} documents without text left out" if totals.empty_documents else ""
    return (
        f"{plan.config.corpus}: {units.count(totals.documents)} documents, {units.count(totals.tokens)} tokens, "
        f"{units.bytes_(totals.text_bytes)} of text; {totals.checked_documents:,} documents checked, "
        f"{totals.mismatched_documents:,} differed{empty}{skipped}"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(process.main(run, Tokenization))
