r"""Duplicates and benchmark questions in a corpus: `megatron_octo.curation` beside datatrove's own steps and rensa.

    python benchmarks/curation_duplicates.py --benchmark gsm8k=gsm8k.jsonl

Signatures: MB of text a second. datatrove's step takes its words from spaCy, which is not here: it is given our words, split already.
Pairs and groups: documents a second through all bands, from signatures on the disk. Found: of pairs of documents with a given Jaccard
similarity of their shingles, the share joined. One core, each contender's turns one after the other, the least CPU time counts. Documents
are words of the standard library's manual in random order; of every tenth there is a near copy. Prints Markdown.
"""

import argparse
import functools
import os
import pydoc_data.topics
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

# Before rensa's threads start.
os.environ["RAYON_NUM_THREADS"] = "1"

import numpy as np
import rensa  # type: ignore[import-untyped]
from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
from datatrove.utils.hashing import HashConfig
from datatrove.utils.word_tokenizers import WordTokenizer
from loguru import logger

from megatron_octo import artifacts, ngrams
from megatron_octo.curation.config import Duplicates, Signatures
from megatron_octo.curation.copies import duplicates, signatures
from megatron_octo.curation.copies.duplicates import Likeness
from megatron_octo.curation.copies.signatures import Hashing, Sign, Signed
from megatron_octo.curation.copies.unique import Benchmarks
from megatron_octo.evaluation import loading
from megatron_octo.evaluation.config import Source

SEED = 1234
TURNS = 3
DOCUMENT_WORDS = 400
COPY_EVERY = 10
LEVELS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
PAIRS_AT_A_TIME = 500
#: Bands and rows: MegaMath's, FineWeb's.
BANDED = ((11, 10), (14, 8))

Made = TypeVar("Made")


def main() -> None:
    arguments = parser().parse_args()
    logger.remove()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    texts = made(arguments.documents)
    print(f"# Duplicates: {len(texts):,} documents of {size(texts):.1f} MB, one core, {time.strftime('%Y-%m-%d')}\n")
    for section in (speed_of_signatures, speed_of_groups):
        with tempfile.TemporaryDirectory() as directory:
            section(texts, Path(directory))
    found(arguments.pairs)
    if arguments.benchmark:
        with tempfile.TemporaryDirectory() as directory:
            decontaminated(texts, arguments.benchmark, Path(directory))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--documents", type=int, default=20_000)
    made.add_argument("--pairs", type=int, default=10_000, help="of each similarity")
    made.add_argument("--benchmark", action="append", default=[], metavar="NAME=FILE", help="questions to look for")
    return made


def made(count: int) -> list[str]:
    source = random.Random(SEED)
    vocabulary = " ".join(pydoc_data.topics.topics.values()).split()
    texts: list[str] = []
    for number in range(count):
        words = source.choices(vocabulary, k=DOCUMENT_WORDS)
        if number % COPY_EVERY == 1:
            words = [*texts[-1].split(" ")[:-4], *words[:4]]
        texts.append(" ".join(words))
    return texts


def size(texts: Sequence[str]) -> float:
    return sum(len(text.encode()) for text in texts) / 1e6


def measured(work: Callable[[], Made], *, turns: int = TURNS) -> tuple[float, Made]:
    seconds = []
    for _ in range(turns):
        started = time.process_time()
        result = work()
        seconds.append(time.process_time() - started)
    return min(seconds), result


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in (columns, ["---"] * len(columns), *rows):
        print(f"| {' | '.join(row)} |")
    print()


# Signatures -----------------------------------------------------------------------------------------------------------


class Split(WordTokenizer):  # type: ignore[misc]
    """The cheapest there can be."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        raise NotImplementedError

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        raise NotImplementedError


def theirs_of(bands: int, rows: int) -> MinhashConfig:
    """With SHA-1: their default hands a string to xxhash, of which version 4 takes bytes alone."""
    return MinhashConfig(n_grams=5, num_buckets=bands, hashes_per_bucket=rows, hash_config=HashConfig(hash_fc="sha1"))


def documents_of(texts: Sequence[str]) -> list[Document]:
    return [Document(text=text, id=str(number)) for number, text in enumerate(texts)]


def speed_of_signatures(texts: list[str], directory: Path) -> None:
    bands, rows = BANDED[1]
    hashing = Hashing(bands=bands, rows=rows, ngram=5, seed=1)
    config = theirs_of(bands, rows)
    some = texts[: len(texts) // 10]
    contenders: list[tuple[str, Sequence[str], Callable[[Sequence[str]], object]]] = [
        (
            "datatrove, words given",
            some,
            lambda given: MinhashDedupSignature(str(directory / "theirs"), config, language=Split()).run(
                documents_of(given)
            ),
        ),
        ("rensa, from sets of strings", some, lambda given: by_rensa(given, bands * rows)),
        ("rensa, from our shingles", texts, lambda given: by_rensa_of_hashes(given, bands * rows)),
        (
            "MinHashes alone",
            texts,
            lambda given: [hashing.minima(list(batch)) for batch in in_batches(given)],
        ),
        ("megatron_octo, with digests, keys, sketches and files", texts, lambda given: sign(given, directory, hashing)),
    ]
    speeds = {name: size(given) / measured(functools.partial(work, given))[0] for name, given, work in contenders}
    base = speeds["datatrove, words given"]
    print(f"## Signatures: {bands * rows} hashes of 5-word shingles\n")
    table(
        ["", "MB/s", "times datatrove's"],
        [[name, f"{speed:.1f}", f"{speed / base:.1f}"] for name, speed in speeds.items()],
    )


def in_batches(texts: Sequence[str]) -> list[Sequence[str]]:
    each = 400
    return [texts[first : first + each] for first in range(0, len(texts), each)]


def by_rensa(texts: Sequence[str], num_hashes: int) -> object:
    shingled = [[" ".join(words[at : at + 5]) for at in range(len(words) - 4)] for words in map(ngrams.words, texts)]
    return rensa.RMinHash.digest_matrix_from_token_sets(shingled, num_hashes, 1).to_rows()


def by_rensa_of_hashes(texts: Sequence[str], num_hashes: int) -> object:
    made = []
    for batch in in_batches(texts):
        hashes, starts = ngrams.shingles(batch, ngram=5)
        rows = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, starts.astype(np.uint64), num_hashes, 1)
        made.append(np.array(rows.to_rows(), np.uint32))
    return made


def sign(texts: Sequence[str], directory: Path, hashing: Hashing) -> Signed:
    out = directory / "ours"
    config = Signatures(parts=1, bands=hashing.bands, rows=hashing.rows)
    with artifacts.stage(out, kind="signatures", config=config, force=True):
        Sign(out, hashing).run(iter(documents_of(texts)), 0)
    return Signed(out)


# Pairs and groups -----------------------------------------------------------------------------------------------------


def speed_of_groups(texts: list[str], directory: Path) -> None:
    bands, rows = BANDED[1]
    config = theirs_of(bands, rows)
    (directory / "theirs").mkdir()
    MinhashDedupSignature(str(directory / "theirs"), config, language=Split()).run(documents_of(texts))
    signed = sign(texts, directory, Hashing(bands=bands, rows=rows, ngram=5, seed=1))
    theirs, their_copies = measured(lambda: grouped_by_datatrove(directory, config), turns=1)
    ours, our_copies = measured(lambda: grouped(signed))
    print(f"## Pairs and groups of {len(texts):,} documents, {bands} bands\n")
    table(
        ["", "documents/s", "times datatrove's", "copies"],
        [
            ["datatrove, not compared", f"{len(texts) / theirs:,.0f}", "1.0", f"{their_copies:,}"],
            ["megatron_octo, compared", f"{len(texts) / ours:,.0f}", f"{theirs / ours:.1f}", f"{our_copies:,}"],
        ],
    )


def grouped_by_datatrove(directory: Path, config: MinhashConfig) -> int:
    signatures_, pairs, out = (str(directory / name) for name in ("theirs", "pairs", "out"))
    for bucket in range(config.num_buckets):
        MinhashDedupBuckets(signatures_, pairs, config=config).run(None, bucket, config.num_buckets)
    MinhashDedupCluster(pairs, out, config=config).run(None, 0, 1)
    return sum(file.stat().st_size // 4 for file in Path(out).glob("*.remove"))


def grouped(signed: Signed) -> int:
    likeness = Likeness(rows=signed.sketches, bounds=signed.bounds, min_share=Duplicates().min_similarity)
    tables = (duplicates.links(signed.keys(band), likeness) for band in range(signed.num_bands))
    first = duplicates.first_of_groups(signed.num_documents, tables)
    return int((first != np.arange(signed.num_documents)).sum())


# Found ----------------------------------------------------------------------------------------------------------------


def found(num_pairs: int) -> None:
    hashings = [Hashing(bands=bands, rows=rows, ngram=5, seed=1) for bands, rows in BANDED]
    columns = [
        f"{hashing.bands} x {hashing.rows}{how}" for hashing in hashings for how in (", by the curve", "", ", compared")
    ]
    print(f"## Share of pairs found, {num_pairs:,} pairs of each similarity, %\n")
    rows = []
    for level in LEVELS:
        shares = []
        for hashing in hashings:
            by_curve = 1 - (1 - level**hashing.rows) ** hashing.bands
            shares += [by_curve, *shares_found(level, num_pairs, hashing)]
        rows.append([f"{level:.2f}", *(f"{100 * share:.2f}" for share in shares)])
    table(["Jaccard", *columns], rows)


def shares_found(level: float, num_pairs: int, hashing: Hashing) -> tuple[float, float]:
    """In a band, and also by their sketches."""
    source = random.Random(SEED)
    met = compared = 0
    for _ in range(0, num_pairs, PAIRS_AT_A_TIME):
        texts = [text for _ in range(PAIRS_AT_A_TIME) for text in pair(source, level)]
        minima = hashing.minima(texts)
        keys, sketches = hashing.keys(minima), signatures.sketches(minima)
        in_band = (keys[:, ::2] == keys[:, 1::2]).any(axis=0)
        alike = np.mean(sketches[::2] == sketches[1::2], axis=1) >= Duplicates().min_similarity
        met += int(in_band.sum())
        compared += int((in_band & alike).sum())
    return met / num_pairs, compared / num_pairs


def pair(source: random.Random, jaccard: float) -> list[str]:
    """Two documents whose 5-word shingles, 400 in both together, have just this Jaccard similarity."""
    shared = some_words(source, round(400 * jaccard) + 4)
    return [" ".join(shared + some_words(source, round(200 * (1 - jaccard)))) for _ in range(2)]


def some_words(source: random.Random, count: int) -> list[str]:
    return [f"{source.getrandbits(64):x}" for _ in range(count)]


# Benchmarks -----------------------------------------------------------------------------------------------------------


def decontaminated(texts: list[str], given: Sequence[str], directory: Path) -> None:
    asked = {
        name: [each.question for each in loading.questions(Source(name=name, file=Path(file)))]
        for name, file in (each.split("=", 1) for each in given)
    }
    askable = [each for questions in asked.values() for each in questions if len(ngrams.words(each)) >= 8]
    source = random.Random(SEED)
    planted = {number: source.choice(askable) for number in range(0, len(texts), COPY_EVERY)}
    with_questions = [
        f"{text}\n{re.sub(' ', '  ', planted[number]).upper()}" if number in planted else text
        for number, text in enumerate(texts)
    ]
    seconds, kept = measured(
        lambda: [
            document.id for document in Benchmarks(asked, ngram=13, out=directory).run(documents_of(with_questions))
        ]
    )
    missed = len({str(number) for number in planted} & set(kept))
    print(f"## Questions of {', '.join(asked)}: {sum(map(len, asked.values())):,} of them\n")
    table(
        ["MB/s", "documents/s", "planted", "missed", "dropped besides"],
        [
            [
                f"{size(with_questions) / seconds:.1f}",
                f"{len(texts) / seconds:,.0f}",
                f"{len(planted):,}",
                f"{missed:,}",
                f"{len(texts) - len(kept) - len(planted) + missed:,}",
            ]
        ],
    )


if __name__ == "__main__":
    main()
