"""One corpus to Megatron shards: Tokenization -> OUT/<corpus>.bin, .idx and manifest.json.

Documents are shuffled once, here, so that training reads them front to back and needs no document index. The shuffle holds
the corpus' tokens in memory, 4 bytes each: a limit of about 5B tokens on a machine with 32 GB. Without a shuffle memory stays
at one batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_octo import artifacts, process, progress
from megatron_octo.config import to_dict
from megatron_octo.errors import CorpusError
from megatron_octo.shards import MANIFEST, Manifest, Shard, ShardWriter, bin_path, idx_path
from megatron_octo.tokenization import reading
from megatron_octo.tokenization.config import Tokenization
from megatron_octo.tokenization.engines import CONFIG_FILE, TOKENIZER_FILE, HuggingFaceEngine
from megatron_octo.tokenization.shuffle import Piece, shuffled


def run(config: Tokenization, out: Path, force: bool) -> None:
    reading.check(config.inputs)
    engine = HuggingFaceEngine(config.tokenizer, prepend_bos=config.prepend_bos, append_eod=config.append_eod)
    with artifacts.stage(out, kind="tokenize", config=config, inputs=_inputs(config), force=force) as stage:
        if stage.done:
            return
        totals = Totals()
        with ShardWriter(out / config.corpus, vocab_size=engine.vocab_size) as writer:
            for tokens, lengths in shuffled(_encoded(config, engine, totals), seed=config.shuffle_seed):
                writer.add(tokens, lengths)
            if not totals.documents:
                raise CorpusError(f"{', '.join(map(str, config.inputs))}: no document with text in it")
        artifacts.write_json(out / MANIFEST, to_dict(_manifest(config, out, engine, totals)))
        stage.counts.update(vars(totals))


@dataclass(kw_only=True)
class Totals:
    """What went through."""

    documents: int = 0
    empty_documents: int = 0
    tokens: int = 0
    #: UTF-8 bytes of the text.
    text_bytes: int = 0

    def add(self, texts: list[str], lengths: npt.NDArray[np.int32]) -> None:
        filled = int(np.count_nonzero(lengths))
        self.documents += filled
        self.empty_documents += len(texts) - filled
        self.tokens += int(lengths.sum())
        self.text_bytes += sum(len(text.encode()) for text in texts)


def _encoded(config: Tokenization, engine: HuggingFaceEngine, totals: Totals) -> Iterator[Piece]:
    """Documents with text in them, in file order."""
    total_bytes = reading.check(config.inputs)
    with progress.bar(f"tokenize {config.corpus}", total=total_bytes, unit="B") as advance:
        for batch in reading.batches(config.inputs, config.text_field):
            tokens, lengths = engine.encode(batch.texts)
            totals.add(batch.texts, lengths)
            advance(batch.file_bytes)
            yield tokens, lengths[lengths > 0]


def _inputs(config: Tokenization) -> dict[str, Path]:
    texts = {f"text_{index}": path for index, path in enumerate(config.inputs)}
    # Not the directory: that of a model holds gigabytes of weights.
    return texts | {name: config.tokenizer / name for name in (TOKENIZER_FILE, CONFIG_FILE)}


def _manifest(config: Tokenization, out: Path, engine: HuggingFaceEngine, totals: Totals) -> Manifest:
    shard = _shard(out / config.corpus, totals)
    return Manifest(
        corpus=config.corpus,
        tokenizer_sha256=artifacts.hash_file(config.tokenizer / TOKENIZER_FILE),
        vocab_size=engine.vocab_size,
        engine=engine.name,
        engine_version=engine.version,
        bos_id=engine.bos_id,
        eos_id=engine.eos_id,
        prepend_bos=config.prepend_bos,
        append_eod=config.append_eod,
        shuffle_seed=config.shuffle_seed,
        shards=(shard,),
        **vars(totals),
    )


def _shard(prefix: Path, totals: Totals) -> Shard:
    return Shard(
        name=prefix.name,
        documents=totals.documents,
        tokens=totals.tokens,
        bytes=bin_path(prefix).stat().st_size,
        bin_sha256=artifacts.hash_file(bin_path(prefix)),
        idx_sha256=artifacts.hash_file(idx_path(prefix)),
    )


if __name__ == "__main__":
    raise SystemExit(process.main(run, Tokenization))
