"""Documents to a data set: Publication -> OUT/data/part-00000.parquet, ... and OUT/README.md.

python -m megatron_octo.curation.data_sets.publishing_run CONFIG.json OUT
megatron-octo tokenize my_corpus --input OUT/data --tokenizer ... --out ...
"""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_octo import artifacts, process, units
from megatron_octo.curation import documents, parts
from megatron_octo.curation.config import Publication
from megatron_octo.curation.data_sets import card, publishing
from megatron_octo.curation.data_sets.publishing import UNFIT, Publish

CARD = "README.md"


def run(config: Publication, out: Path, force: bool) -> None:
    documents.require_parts(config.documents, config.parts)
    with parts.opened(out, kind="corpus", config=config, inputs=_inputs(config), force=force) as stage:
        if stage.done:
            return
        last = _step(config.documents)
        _write(out / CARD, card.text(config.name, [_step(step) for step in config.steps] or [last], last=last))
        parts.make(stage, config, [documents.Read(config.documents), Publish(out)])
    if stage.complete:
        _say_what_does_not_fit(stage.counts)


def _inputs(config: Publication) -> dict[str, Path]:
    """Of the steps their marks too, which the card is made from: with other settings a step may make the same documents."""
    steps = {f"steps/{step.name}": step for step in config.steps}
    return {
        "documents": config.documents,
        **steps,
        **{f"{name}/mark": step / artifacts.MARK for name, step in steps.items()},
    }


def _say_what_does_not_fit(counts: Mapping[str, Any]) -> None:
    beginning = f"{Publish.name}_{UNFIT}"
    for name, number in counts.items():
        if name.startswith(beginning):
            column = name.removeprefix(beginning)
            parts.say(
                f"warning: {units.counted(number, 'document')} with a {column} that is no {publishing.COLUMNS[column]}; null in its place"
            )


def _step(stage: Path) -> card.Step:
    return card.step_of(stage.name, artifacts.finished(stage))


def _write(file: Path, text: str) -> None:
    # A name of its own: the tasks of an array write the same.
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, file)


if __name__ == "__main__":
    raise SystemExit(process.main(run, Publication))
