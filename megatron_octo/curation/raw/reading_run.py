"""Raw corpora to documents: Reading -> OUT/documents/00000.jsonl.zst, ..., and what was dropped, by reason, in OUT/rejects.

Rows and web pages are read, pages become text with their formulas as LaTeX, then quality rules and language decide. A row that gives no
text is kept aside; of a damaged file, what came before the damage is kept. Neither stops the stage; it says at the end what it met.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from megatron_octo import process, units
from megatron_octo.curation import documents, parts
from megatron_octo.curation.config import Reading
from megatron_octo.curation.languages import Identifier, InLanguage
from megatron_octo.curation.raw import inputs
from megatron_octo.curation.raw.extraction import Extract
from megatron_octo.curation.raw.quality import OfQuality
from megatron_octo.curation.raw.reading import BAD_ROW, RawFile, ReadRaw


def run(config: Reading, out: Path, force: bool) -> None:
    files = inputs.resolve(config.inputs)
    raw = {f"file_{index}": file for index, file in enumerate(files)}
    with parts.opened(
        out, kind="documents", config=config, inputs=_models(config), raw_inputs=raw, force=force
    ) as stage:
        if stage.done:
            return
        inputs.require_unchanged(files, stage.logs / inputs.DEALT)
        parts.say(_decided(config, files))
        parts.make(stage, config, pipeline(config, files, out))
    if stage.complete:
        _say_what_was_met(stage.counts, out)


def pipeline(config: Reading, files: Sequence[Path], out: Path) -> list[PipelineStep]:
    """The steps in the order of their costs: language costs most, and is asked last."""
    read = ReadRaw(
        _dealt(files, config.parts),
        text_field=config.text_field,
        id_field=config.id_field,
        is_html=config.is_html,
        rejects=documents.rejects(out, ReadRaw.name),
    )
    steps = [read, Extract(config.extractor, documents.rejects(out, Extract.name))]
    if config.quality is not None:
        steps.append(OfQuality(config.quality, documents.rejects(out, OfQuality.name)))
    if config.language is not None:
        steps.append(InLanguage(config.language, documents.rejects(out, InLanguage.name)))
    return [*steps, documents.Write(out)]


def _dealt(files: Sequence[Path], num_parts: int) -> list[list[RawFile]]:
    raw = [RawFile(path=file, label=label) for file, label in zip(files, inputs.labels(files), strict=True)]
    sizes = [file.stat().st_size for file in files]
    return [[raw[index] for index in hand] for hand in inputs.dealt(sizes, num_parts)]


def _models(config: Reading) -> dict[str, Path]:
    """The user's language model, which decides what is kept; said here if it is none."""
    if config.language is None or config.language.model is None:
        return {}
    Identifier(config.language.model)
    return {"language_model": config.language.model}


def _decided(config: Reading, files: Sequence[Path]) -> str:
    size = units.bytes_(sum(file.stat().st_size for file in files))
    said = f"read {units.counted(len(files), 'file')}, {size}, in {units.counted(config.parts, 'part')}"
    if len(files) >= config.parts:
        return said
    idle = config.parts - len(files)
    return (
        f"{said}\n  {idle:,} of the parts stay empty: a file is never cut; split the largest, or set parts={len(files)}"
    )


def _say_what_was_met(counts: dict[str, Any], out: Path) -> None:
    for what, noun in ((f"dropped_{BAD_ROW}", "bad row"), ("damaged_files", "damaged file")):
        if number := counts.get(f"{ReadRaw.name}_{what}", 0):
            parts.say(f"warning: {units.counted(number, noun)}; see {out / documents.REJECTS / ReadRaw.name}")
    if not counts.get("kept_documents"):
        parts.say(f"warning: no document is left; {out / documents.REJECTS} has what was dropped, and why")


if __name__ == "__main__":
    raise SystemExit(process.main(run, Reading))
