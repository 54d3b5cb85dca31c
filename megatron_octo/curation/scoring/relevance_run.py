"""The classifier's choice as a process: `python -m megatron_octo.curation.scoring.relevance_run CONFIG.json OUT`."""

from pathlib import Path
from typing import Any

from megatron_octo import artifacts, process
from megatron_octo.curation import documents, parts
from megatron_octo.curation.config import Relevance
from megatron_octo.curation.scoring import classifier
from megatron_octo.curation.scoring.relevance import Relevant
from megatron_octo.errors import ConfigError


def run(config: Relevance, out: Path, force: bool) -> None:
    """Score all documents and keep those at the threshold or above."""
    documents.require_parts(config.documents, config.parts)
    trained = _classifier_of(config.classifier)
    inputs = {"documents": config.documents, "classifier": config.classifier}
    with parts.opened(out, kind="relevant", config=config, inputs=inputs, force=force) as stage:
        if stage.done:
            return
        parts.make(
            stage, config, [documents.Read(config.documents), _relevant(config, trained, out), documents.Write(out)]
        )


def _relevant(config: Relevance, trained: dict[str, Any], out: Path) -> Relevant:
    """As the classifier was trained: the same preparation of texts and, where none is given, its threshold."""
    threshold = trained["threshold"] if config.threshold is None else config.threshold
    model = config.classifier / classifier.MODEL
    return Relevant(model, normalise=trained["normalise"], threshold=threshold, out=out)


def _classifier_of(directory: Path) -> dict[str, Any]:
    """Its config. Raises `ConfigError` where another kind of stage is given."""
    mark = artifacts.finished(directory)
    if mark["kind"] != classifier.KIND:
        raise ConfigError(f"{directory} holds {mark['kind']}, not a classifier; give the directory of a trained one")
    config: dict[str, Any] = mark["config"]
    return config


if __name__ == "__main__":
    raise SystemExit(process.main(run, Relevance))
