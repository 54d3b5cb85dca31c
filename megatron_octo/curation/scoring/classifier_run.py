"""The classifier as a process: `python -m megatron_octo.curation.scoring.classifier_run CONFIG.json OUT`.

Leaves OUT/model.bin (8 MB with 2 M buckets), OUT/thresholds.csv and its picture, OUT/curves.png and .svg. Takes minutes for half a
million documents, 4 bytes of memory times buckets times dim (2 GB), and the disk of the annotations once more while it trains.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from megatron_octo import artifacts, process, progress
from megatron_octo.curation import parts
from megatron_octo.curation.config import Classifier
from megatron_octo.curation.scoring import classifier, curves, normalising
from megatron_octo.curation.scoring.classifier import Example, Scorer
from megatron_octo.curation.scoring.curves import HeldOut

ANNOTATIONS = "annotations.jsonl"
THRESHOLDS = "thresholds.csv"
PICTURE = "curves"
#: Between the scores of nine documents in ten and of one in ten: less is no opinion (guess).
LITTLE = 0.2


def run(config: Classifier, out: Path, force: bool) -> None:
    """Train on one part of the annotations, measure on the other."""
    inputs = {"annotations": config.annotations}
    with artifacts.stage(out, kind=classifier.KIND, config=config, inputs=inputs, force=force) as stage:
        if stage.done:
            return
        file = config.annotations / ANNOTATIONS
        found = classifier.examples(file, positive_from=config.positive_from, seed=config.seed)
        rest, held_out = classifier.split(found, held_out_share=config.held_out_share)
        # Before they are balanced: of a class that lacks, the other would be counted as lacking too.
        classifier.require_enough(rest, held_out, positive_from=config.positive_from)
        trained = classifier.balanced(rest) if config.balance else rest
        stage.counts |= {"documents": len(found), "positives": _positives(found)}
        stage.counts |= {"trained_documents": len(trained), "trained_positives": _positives(trained)}
        _train(config, file, trained, out)
        measured = _measure(config, file, held_out, out)
        _report(measured, config.threshold, out)
        stage.counts |= _at_threshold(measured, config.threshold)
        _warn_of_little_learned(measured)


def _train(config: Classifier, file: Path, trained: Sequence[Example], out: Path) -> None:
    lines = out / ".training.txt"
    with lines.open("wb") as stream:
        prepared = normalising.preparing(normalise=config.normalise)
        for example, text in _shown("classifier: prepare", file, trained):
            stream.write(classifier.label(example) + b" " + prepared(text) + b"\n")
    parts.say(f"classifier: training on {len(trained):,} documents, {config.epochs} epochs")
    model = classifier.train(config, lines, verbose=sys.stderr.isatty())
    classifier.save_small(model, out / classifier.MODEL)
    lines.unlink()


def _measure(config: Classifier, file: Path, held_out: Sequence[Example], out: Path) -> HeldOut:
    scorer = Scorer(out / classifier.MODEL, normalise=config.normalise)
    scores = [scorer.score(text) for _, text in _shown("classifier: held out", file, held_out)]
    labels = [example.is_positive for example in held_out]
    return HeldOut(scores=np.array(scores), labels=np.array(labels), years=classifier.by_year(held_out))


def _report(measured: HeldOut, threshold: float, out: Path) -> None:
    (out / THRESHOLDS).write_text(curves.as_csv(curves.table(measured)))
    figure = curves.draw(measured, threshold=threshold)
    for kind in ("png", "svg"):
        (out / f"{PICTURE}.{kind}").write_bytes(curves.image(figure, kind))


def _at_threshold(measured: HeldOut, threshold: float) -> dict[str, float | None]:
    at = curves.point(curves.ALL, measured.scores, measured.labels, threshold)
    parts.say(
        f"classifier: at threshold {threshold:g} precision {at.precision}, recall {at.recall}, {at.kept_share:.1%} kept of "
        f"{at.documents:,} held-out documents; {THRESHOLDS} has the other thresholds and each year"
    )
    return {
        "held_out_documents": at.documents, "held_out_positives": at.positives, "held_out_precision": at.precision,
        "held_out_recall": at.recall, "held_out_kept_share": at.kept_share,
    }  # fmt: skip


def _warn_of_little_learned(measured: HeldOut) -> None:
    """A few hundred documents in a few epochs leave all scores at 0.5, on one side of the threshold."""
    low, high = np.quantile(measured.scores, (0.1, 0.9))
    if high - low < LITTLE:
        parts.say(
            f"warning: most held-out documents score between {low:.3f} and {high:.3f}, so a threshold tells little; raise lr "
            "(such as 0.5) and epochs (such as 10), or annotate a larger sample"
        )


def _shown(what: str, file: Path, among: Sequence[Example]) -> Iterator[tuple[Example, str]]:
    """Examples with their texts, behind a bar."""
    with progress.bar(what, total=len(among), unit="documents") as advance:
        for example, text in zip(among, classifier.texts(file, among), strict=True):
            yield example, text
            advance()


def _positives(among: Sequence[Example]) -> int:
    return sum(example.is_positive for example in among)


if __name__ == "__main__":
    raise SystemExit(process.main(run, Classifier))
