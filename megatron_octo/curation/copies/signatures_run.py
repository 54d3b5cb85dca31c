"""Signatures of documents as a process: `python -m megatron_octo.curation.copies.signatures_run SIGNATURES.json OUT`."""

from pathlib import Path

from megatron_octo import process
from megatron_octo.curation import documents, parts
from megatron_octo.curation.config import Signatures
from megatron_octo.curation.copies.signatures import Hashing, Sign


def run(config: Signatures, out: Path, force: bool) -> None:
    """Sign every document; the order of parts and documents stays."""
    documents.require_parts(config.documents, config.parts)
    with parts.opened(
        out, kind="signatures", config=config, inputs={"documents": config.documents}, force=force
    ) as stage:
        if stage.done:
            return
        hashing = Hashing(bands=config.bands, rows=config.rows, ngram=config.ngram, seed=config.seed)
        parts.make(stage, config, [documents.Read(config.documents), Sign(out, hashing)])


if __name__ == "__main__":
    raise SystemExit(process.main(run, Signatures))
