"""Documents without copies and benchmark questions, as a process: `python -m megatron_octo.curation.copies.unique_run UNIQUE.json OUT`.

What is dropped lies in OUT/rejects/duplicates, with the id of the document that stays in `metadata.duplicate_of`, and in
OUT/rejects/benchmarks, with question and shared words in `metadata.benchmark_questions`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from megatron_octo import process
from megatron_octo.curation import documents, parts
from megatron_octo.curation.config import Unique
from megatron_octo.curation.copies import duplicates_run
from megatron_octo.curation.copies.unique import Benchmarks, Duplicates, reason_of, too_short
from megatron_octo.evaluation import loading


def run(config: Unique, out: Path, force: bool) -> None:
    """Drop copies, then documents that hold questions."""
    documents.require_parts(config.documents, config.parts)
    with parts.opened(out, kind="unique", config=config, inputs=_inputs(config), force=force) as stage:
        if stage.done:
            return
        asked = {source.name: [each.question for each in loading.questions(source)] for source in config.benchmarks}
        stage.counts |= _asked(asked, config.ngram)
        parts.make(
            stage,
            config,
            [
                documents.Read(config.documents),
                Duplicates(config.duplicates / duplicates_run.FOLDER, out),
                Benchmarks(asked, ngram=config.ngram, out=out),
                documents.Write(out),
            ],
        )


def _inputs(config: Unique) -> dict[str, Path]:
    """What comes from the hub is known by its name."""
    files = {f"benchmark_{source.name}": source.file for source in config.benchmarks if source.file is not None}
    return {"documents": config.documents, "duplicates": config.duplicates, **files}


def _asked(asked: Mapping[str, Sequence[str]], ngram: int) -> dict[str, int]:
    """Counts, with a zero for each benchmark that may be found; says what is not looked for."""
    short = too_short(asked, ngram=ngram)
    if not asked:
        parts.say(
            "unique: no benchmarks are given: documents that hold their questions stay, and scores on them will mean little"
        )
    if short:
        parts.say(f"unique: {short:,} questions have too few words to be told from other text, and are not looked for")
    counts = {f"{Benchmarks.name}_questions_{name}": len(questions) for name, questions in asked.items()}
    dropped = {f"{Benchmarks.name}_dropped_{reason_of(name)}": 0 for name in asked}
    return (
        {f"{Benchmarks.name}_questions": sum(counts.values()), f"{Benchmarks.name}_too_short": short} | counts | dropped
    )


if __name__ == "__main__":
    raise SystemExit(process.main(run, Unique))
