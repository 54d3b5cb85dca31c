"""Documents the classifier scores at a threshold or above: 4,400 to 5,800 of 2.6 kB a second and core, with reading and writing, the
more of them the more are kept (23 Nov 2026, two cores with six to nine processes on them; benchmarks/curation_classifier.py).

datatrove's FastTextClassifierFilter does not prepare texts, wants the package fasteners for downloads, asks through fastText's Python
method, which makes an array of every text's scores, and compares scores that it does not round, so that one that was written and read
again may lie on the other side of the threshold.
"""

from pathlib import Path

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.filters.base_filter import BaseFilter

from megatron_octo.curation import documents
from megatron_octo.curation.parts import OURS
from megatron_octo.curation.scoring.classifier import Scorer

#: Of the metadata; MegaMath-Web-Pro-Max's name for the score of its own classifier.
SCORE = "finemath_score"
BELOW = "score_below_threshold"


class Relevant(BaseFilter):  # type: ignore[misc]
    """Keeps documents of enough score; all of them carry it from then on."""

    name = "relevant"
    type = OURS

    def __init__(self, model: Path, *, normalise: bool, threshold: float, out: Path) -> None:
        super().__init__(exclusion_writer=documents.rejects(out, self.name))
        self._model, self._normalise, self._threshold = model, normalise, threshold
        self._scorer: Scorer | None = None

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        self._scorer = Scorer(self._model, normalise=self._normalise)  # here: steps are pickled, models are not
        yield from super().run(data, rank, world_size)

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        assert self._scorer is not None
        score = document.metadata[SCORE] = self._scorer.score(document.text)
        return True if score >= self._threshold else (False, BELOW)
