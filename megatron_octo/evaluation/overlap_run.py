"""Overlap of benchmarks and corpora as a process: `python -m megatron_octo.evaluation.overlap_run OVERLAP.json OUT`.

Leaves OUT/overlap.json: `{"ngram": 13, "corpora": {corpus: {"documents": looked at, "of": all of them, "benchmarks": {name:
{"questions": n, "found": k, "too_short": m, "examples": [{"question", "text"}]}}}}}`. About 25 MB of text a second and core, more than
half of the time for decoding (benchmarks/overlap.py); a worker takes 190 MB.
"""

import functools
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from megatron_octo import artifacts, process, progress, units, workers
from megatron_octo.errors import CorpusError
from megatron_octo.evaluation import loading, overlap
from megatron_octo.evaluation.config import Overlap
from megatron_octo.evaluation.overlap import Checker, Found, Job
from megatron_octo.ngrams import Index
from megatron_octo.shards import MANIFEST, Corpus, open_corpus
from megatron_octo.tokenization.identity import tokenizer_files, tokenizer_sha256

RESULT_FILE = "overlap.json"

#: In a worker.
_checker: Checker


def run(config: Overlap, out: Path, force: bool) -> None:
    """Look for every question in every corpus."""
    workers.one_thread_each()
    corpora = _open_corpora(config)
    with artifacts.stage(out, kind="overlap", config=config, inputs=_inputs(config, corpora), force=force) as stage:
        if stage.done:
            return
        asked = {source.name: [each.question for each in loading.questions(source)] for source in config.benchmarks}
        tallies = _look(config, corpora, asked)
        artifacts.write_json(out / RESULT_FILE, {"ngram": config.ngram, "corpora": tallies})
        stage.counts["documents"] = sum(each["documents"] for each in tallies.values())
        _say(tallies)


def _open_corpora(config: Overlap) -> dict[str, Corpus]:
    """All corpora by name. Raises `CorpusError` where there is none, or where one was made with another tokenizer."""
    corpora = {file.parent.name: open_corpus(file.parent) for file in sorted(config.shards.glob(f"*/{MANIFEST}"))}
    if not corpora:
        raise CorpusError(f"no tokenised corpus lies below {config.shards}; name the directory that holds them all")
    asked = tokenizer_sha256(config.tokenizer)
    for name, corpus in corpora.items():
        if corpus.manifest.tokenizer_sha256 != asked:
            raise CorpusError(
                f"the corpus '{name}' was tokenised with another tokenizer ({corpus.manifest.tokenizer_sha256[:12]}) than "
                f"{config.tokenizer} ({asked[:12]}); give the one it was made with"
            )
    return corpora


def _inputs(config: Overlap, corpora: Mapping[str, Corpus]) -> dict[str, Path]:
    """What lies here; what comes from the hub is known by its name."""
    shards = {f"shards_{name}": config.shards / name for name in corpora}
    benchmarks = {f"benchmark_{source.name}": source.file for source in config.benchmarks if source.file is not None}
    return shards | benchmarks | tokenizer_files(config.tokenizer)


def _look(
    config: Overlap, corpora: Mapping[str, Corpus], asked: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    questions = [*chain(*asked.values())]
    too_short = Index(questions, ngram=config.ngram).too_short
    return {
        name: {
            "documents": overlap.num_sampled(corpus, config.max_documents),
            "of": corpus.manifest.documents,
            "benchmarks": overlap.tally(asked, too_short, _found(config, name, corpus, questions)),
        }
        for name, corpus in corpora.items()
    }


def _found(config: Overlap, name: str, corpus: Corpus, questions: Sequence[str]) -> Found:
    """The first sight of each question in a corpus, in the order of its documents, whichever worker is quicker."""
    found: Found = {}
    jobs = list(overlap.jobs(corpus, config.max_documents))
    begin = functools.partial(_begin, config.tokenizer, questions, config.ngram)
    total = overlap.num_sampled(corpus, config.max_documents)
    with progress.bar(f"overlap {name}", total=total, unit="documents") as advance:
        seen = workers.each(_check, jobs, num_workers=config.workers, on_progress=advance, begin=begin)
    for of_job in reversed(seen):
        found |= of_job
    return found


def _begin(tokenizer: Path, questions: Sequence[str], ngram: int) -> None:
    """In every new worker."""
    global _checker
    _checker = Checker(tokenizer=tokenizer, questions=questions, ngram=ngram)


def _check(job: Job) -> Found:
    found = _checker.check(job)
    workers.advance(len(job.samples))
    return found


def _say(tallies: Mapping[str, Any]) -> None:
    for corpus, tally in tallies.items():
        found = ", ".join(
            f"{name} {each['found']:,}/{each['questions']:,}" for name, each in tally["benchmarks"].items()
        )
        seen = f"{units.count(tally['documents'])} of {units.count(tally['of'])} documents"
        print(f"overlap {corpus}: {seen}; questions found: {found}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(process.main(run, Overlap))
