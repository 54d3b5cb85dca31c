"""A published data set to documents: Importing -> OUT/documents/00000.jsonl.zst, ..., filtered and formatted as the blends take it.

    python -m megatron_octo.curation.data_sets.importing_run CONFIG.json OUT

Its files are dealt to the parts. Without `inputs` they are read from the Hugging Face hub, at the commit that the first try found.
OUT/logs/files.json keeps the list, so that a later try deals the same files.
"""

import dataclasses
import json
from pathlib import Path

from megatron_octo import artifacts, process, units
from megatron_octo.curation import documents, parts
from megatron_octo.curation.config import Importing, Published
from megatron_octo.curation.data_sets import importing, published
from megatron_octo.curation.data_sets.importing import File, Import
from megatron_octo.curation.raw import inputs
from megatron_octo.errors import CorpusError

#: In the stage's logs: the hub's files, of one commit.
LISTING = "files.json"


def run(config: Importing, out: Path, force: bool) -> None:
    recipe = published.RECIPES[config.corpus]
    if not config.inputs and not recipe.hub:
        raise CorpusError(recipe.hint)
    local = importing.local_files(config.corpus, config.inputs) if config.inputs else []
    raw_inputs = {f"file_{index}": Path(file.path) for index, file in enumerate(local)}
    with parts.opened(out, kind="import", config=config, inputs={}, raw_inputs=raw_inputs, force=force) as stage:
        if stage.done:
            return
        if local:
            inputs.require_unchanged(list(raw_inputs.values()), stage.logs / inputs.DEALT)
        files = local or _on_hub(config.corpus, stage.logs / LISTING)
        parts.say(_decided(config, files))
        shares = [
            [files[index] for index in hand] for hand in inputs.dealt([file.bytes for file in files], config.parts)
        ]
        parts.make(stage, config, [Import(config.corpus, shares, config.limit), documents.Write(out)])
    if stage.complete and not stage.counts.get("kept_documents"):
        parts.say(f"warning: no document is left; the counts in {out / artifacts.MARK} say why")


def _on_hub(corpus: Published, listing: Path) -> list[File]:
    """The data set's files as the first try found them."""
    if not listing.exists():
        artifacts.write_json(listing, [dataclasses.asdict(file) for file in importing.hub_files(corpus)])
    return [File(**row) for row in json.loads(listing.read_text())]


def _decided(config: Importing, files: list[File]) -> str:
    size = units.bytes_(sum(file.bytes for file in files))
    place = "" if config.inputs else " of the Hugging Face hub"
    idle = max(0, config.parts - len(files))
    return (
        f"import {config.corpus.value}: {units.counted(len(files), 'file')}{place}, {size}, in {units.counted(config.parts, 'part')}"
        + (f", {idle:,} of which stay empty: a file is never cut" if idle else "")
    )


if __name__ == "__main__":
    raise SystemExit(process.main(run, Importing))
