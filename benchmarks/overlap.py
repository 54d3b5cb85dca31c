r"""How fast documents are searched for questions: `megatron_octo.ngrams` beside plain Python with sets of tuples.

    python benchmarks/overlap.py --questions gsm8k=gsm8k.jsonl --questions math500=math500.jsonl --documents text.jsonl

Documents are JSONL with the text in `text`; without a file they are made of the questions' own words in random order. Every tenth
document gets a question of its own planted. One core; each contender has its turns one after the other, the least CPU time counts.
With --tokenizer a third row begins with tokens, as `evaluation/overlap_run.py` does. Prints Markdown; exit code 1 where the two do not
find the same or a planted question is missed.
"""

import argparse
import itertools
import json
import random
import re
import time
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from megatron_octo.evaluation import loading
from megatron_octo.evaluation.config import Source
from megatron_octo.evaluation.overlap import decoder
from megatron_octo.ngrams import FEWEST_WORDS, Index

NGRAM = 13
SEED = 1234
TURNS = 3
#: Megabytes handed over at a time, about as many as a worker of the stage has.
BATCH_MEGABYTES = 1.0
MADE_DOCUMENTS, MADE_WORDS = 5_000, 700
PLANTED_EVERY = 10
WORD = re.compile(r"[^\W_]+")

#: Pairs of document and question.
Pairs = set[tuple[int, int]]
Words = tuple[str, ...]


@dataclass(frozen=True)
class Row:
    name: str
    seconds: float
    found: Pairs


class PlainIndex:
    """The same search with a dict of tuples."""

    def __init__(self, questions: Sequence[str]) -> None:
        self._words = [plain_words(question) for question in questions]
        self._grams: dict[Words, set[int]] = defaultdict(set)
        self._firsts: dict[Words, set[int]] = defaultdict(set)
        for number, words in enumerate(self._words):
            for gram in grams(words, NGRAM):
                self._grams[gram].add(number)
            if FEWEST_WORDS <= len(words) < NGRAM:
                self._firsts[words[:FEWEST_WORDS]].add(number)

    def find(self, document: str) -> set[int]:
        words = plain_words(document)
        found: set[int] = set()
        for gram in grams(words, NGRAM):
            if gram in self._grams:
                found |= self._grams[gram]
        for start, gram in enumerate(grams(words, FEWEST_WORDS)):
            if gram in self._firsts:
                whole = ((number, self._words[number]) for number in self._firsts[gram])
                found |= {number for number, asked in whole if words[start : start + len(asked)] == asked}
        return found


def plain_words(text: str) -> Words:
    return tuple(WORD.findall(unicodedata.normalize("NFKC", text).lower()))


def grams(words: Words, width: int) -> "zip[Words]":
    return zip(*(words[start:] for start in range(width)), strict=False)


def main() -> int:
    arguments = parser().parse_args()
    files = dict(given.split("=", 1) for given in arguments.questions)
    sources = [Source(name=name, file=Path(file)) for name, file in files.items()]
    questions = [each.question for source in sources for each in loading.questions(source)]
    documents = read(arguments.documents, arguments.megabytes) if arguments.documents else made(questions)
    planted = plant(documents, questions)
    rows = [
        measured("plain Python, tuples", lambda: by_tuples(documents, PlainIndex(questions))),
        measured("megatron_octo.ngrams", lambda: by_numpy(documents, Index(questions, ngram=NGRAM))),
    ]
    if arguments.tokenizer:
        rows.append(from_tokens(arguments.tokenizer, documents, questions))
    print(table(rows, documents, len(questions)))
    same = all(row.found == rows[0].found for row in rows)
    missed = len(planted - rows[1].found)
    print(
        f"\n{len(planted)} planted questions, {missed} missed; {'the same' if same else '**not the same**'} found by all."
    )
    return 0 if same and not missed else 1


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--questions", action="append", required=True, metavar="NAME=FILE", help="a benchmark's questions"
    )
    made.add_argument("--documents", type=Path, help="JSONL with the text in 'text'")
    made.add_argument("--megabytes", type=float, default=20.0, help="of the documents")
    made.add_argument("--tokenizer", type=Path, help="directory with tokenizer.json")
    return made


def read(file: Path, megabytes: float) -> list[str]:
    documents, size = [], 0
    with file.open() as lines:
        for line in lines:
            documents.append(json.loads(line)["text"])
            size += len(documents[-1])
            if size > megabytes * 1e6:
                break
    return documents


def made(questions: Sequence[str]) -> list[str]:
    source = random.Random(SEED)
    vocabulary = [word for question in questions for word in question.split()]
    return [" ".join(source.choices(vocabulary, k=MADE_WORDS)) for _ in range(MADE_DOCUMENTS)]


def plant(documents: list[str], questions: Sequence[str]) -> Pairs:
    """Put questions into documents, in other case and spacing."""
    source = random.Random(SEED)
    tellable = [number for number, text in enumerate(questions) if len(plain_words(text)) >= FEWEST_WORDS]
    planted = {(place, source.choice(tellable)) for place in range(0, len(documents), PLANTED_EVERY)}
    for place, number in planted:
        documents[place] += f"\n\nQ: {questions[number].title().replace(' ', '  ')}"
    return planted


def measured(name: str, search: Callable[[], Pairs]) -> Row:
    seconds = []
    for _ in range(TURNS):
        started = time.process_time()
        found = search()
        seconds.append(time.process_time() - started)
    return Row(name, min(seconds), found)


def by_tuples(documents: Sequence[str], index: PlainIndex) -> Pairs:
    return {(place, number) for place, document in enumerate(documents) for number in index.find(document)}


def by_numpy(documents: Sequence[str], index: Index) -> Pairs:
    found: Pairs = set()
    for first, stop in batches([len(document) for document in documents]):
        found |= {(first + match.document, match.question) for match in index.find(documents[first:stop])}
    return found


def from_tokens(tokenizer: Path, documents: Sequence[str], questions: Sequence[str]) -> Row:
    encoder = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    ids = [each.ids for each in encoder.encode_batch(documents, add_special_tokens=False)]
    decode = decoder(tokenizer)

    def search() -> Pairs:
        texts: list[str] = []
        for first, stop in batches([len(document) for document in documents]):
            texts += decode(ids[first:stop])
        return by_numpy(texts, Index(questions, ngram=NGRAM))

    return measured("the same, from tokens", search)


def batches(sizes: Sequence[int]) -> list[tuple[int, int]]:
    bounds, size = [0], 0.0
    for number, each in enumerate(sizes, start=1):
        size += each
        if size >= BATCH_MEGABYTES * 1e6 or number == len(sizes):
            bounds.append(number)
            size = 0.0
    return list(itertools.pairwise(bounds))


def table(rows: Sequence[Row], documents: Sequence[str], questions: int) -> str:
    megabytes = sum(len(document.encode()) for document in documents) / 1e6
    lines = [
        f"# Overlap: {questions:,} questions in {len(documents):,} documents of {megabytes:.1f} MB, one core",
        "",
        "| | seconds | documents/s | MB/s | times as fast | pairs found |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {row.name} | {row.seconds:.2f} | {len(documents) / row.seconds:,.0f} | {megabytes / row.seconds:.1f} | "
            f"{rows[0].seconds / row.seconds:.1f} | {len(row.found):,} |"
            for row in rows
        ),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
