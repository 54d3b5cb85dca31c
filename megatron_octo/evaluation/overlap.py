"""How much of the benchmarks stands in a corpus: which documents are looked at, and what is found in them.

Asked for are the questions alone, neither solutions nor answers: an answer is met by chance, and whoever has a solution in his text
has the question before it. What a document holds is what training reads of it: its tokens, decoded.
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
import tiktoken
from tokenizers import Tokenizer, decoders, pre_tokenizers

from megatron_octo.ngrams import Index
from megatron_octo.shards import Corpus, ShardReader
from megatron_octo.tokenization import ranks, tokenizer_files
from megatron_octo.tokenization.tokenizer_files import Kind

#: Of one job: seconds of work, so that many cores find work and a dead worker is seen soon.
JOB_DOCUMENTS = 2_000
#: Decoded and looked at together; numpy has much to do at a time, and a worker keeps below 200 MB.
BATCH_TOKENS = 1 << 18
#: Of each benchmark, for people to judge what was found.
EXAMPLES = 3

#: Questions that were found, by their places among all, and the words that a document shares with them.
Found = dict[int, str]
#: Token ids of some documents.
Batch = list[list[int]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """Some documents of one shard; of `total` in the corpus `sampled` are looked at, evenly spread."""

    shard: Path
    #: Documents of the corpus in shards before this one.
    before: int
    total: int
    sampled: int
    #: Which of the sampled ones.
    samples: range

    def __str__(self) -> str:
        return str(self.shard)

    @property
    def documents(self) -> list[int]:
        """Numbers within the shard."""
        return [sample * self.total // self.sampled - self.before for sample in self.samples]


def num_sampled(corpus: Corpus, max_documents: int | None) -> int:
    """Documents to look at."""
    total = corpus.manifest.documents
    return total if max_documents is None else min(total, max_documents)


def jobs(corpus: Corpus, max_documents: int | None) -> Iterator[Job]:
    """The whole corpus or its sample, cut where shards end."""
    total, sampled = corpus.manifest.documents, num_sampled(corpus, max_documents)
    before = 0
    for shard in corpus.shards:
        first, stop = (-(-bound * sampled // total) for bound in (before, before + shard.num_documents))
        for start in range(first, stop, JOB_DOCUMENTS):
            samples = range(start, min(start + JOB_DOCUMENTS, stop))
            yield Job(shard=shard.prefix, before=before, total=total, sampled=sampled, samples=samples)
        before += shard.num_documents


class Checker:
    """Looks for questions in documents."""

    def __init__(self, *, tokenizer: Path, questions: Sequence[str], ngram: int) -> None:
        self._decode = decoder(tokenizer)
        self._index = Index(questions, ngram=ngram)

    def check(self, job: Job) -> Found:
        """The first sight of each question in these documents. Raises `CorpusError` naming the file."""
        found: Found = {}
        for batch in _batches(_reader(job.shard), job.documents):
            for match in self._index.find(self._decode(batch)):
                found.setdefault(match.question, match.text)
        return found


def decoder(directory: Path) -> Callable[[Batch], list[str]]:
    """Text of token ids; special tokens give none, or their names in the case of ranks."""
    files = tokenizer_files.find(directory)
    match files.kind:
        case Kind.HUGGING_FACE:
            tokenizer = Tokenizer.from_file(str(files.vocabulary))
            is_byte_level = isinstance(tokenizer.decoder, decoders.ByteLevel)
            return _byte_level_decoder(tokenizer) if is_byte_level else tokenizer.decode_batch
        case Kind.SENTENCEPIECE:
            return sentencepiece.SentencePieceProcessor(model_file=str(files.vocabulary)).decode
        case Kind.RANKS:
            found = ranks.read(files)
            encoding = tiktoken.Encoding(
                files.vocabulary.name,
                pat_str=found.pattern,
                mergeable_ranks=found.mergeable,
                special_tokens=found.special_tokens,
            )
            return functools.partial(encoding.decode_batch, num_threads=1)


def _byte_level_decoder(tokenizer: Tokenizer) -> Callable[[Batch], list[str]]:
    """`tokenizer.decode_batch` of tokens that are bytes, as Llama-3's are, at five times its speed."""
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    vocabulary = {number: token for token, number in tokenizer.get_vocab().items() if number not in special}
    byte_of = _byte_level_alphabet()
    # As the library does: a token with other characters, one added by hand, stands for itself; special ones and holes give nothing.
    bytes_of = defaultdict[int, bytes](bytes)
    for number, token in vocabulary.items():
        is_bytes = byte_of.keys() >= set(token)
        bytes_of[number] = bytes(map(byte_of.__getitem__, token)) if is_bytes else token.encode()
    return lambda batch: [b"".join(map(bytes_of.__getitem__, ids)).decode(errors="replace") for ids in batch]


def _byte_level_alphabet() -> dict[str, int]:
    """The character that stands for each byte [GPT-2, encoder.py]: printable ones of Latin-1 for themselves, others from U+0100 on."""
    printable = [byte for byte in range(256) if chr(byte) in pre_tokenizers.ByteLevel.alphabet()]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


def _batches(shard: ShardReader, documents: Sequence[int]) -> Iterator[Batch]:
    """Whole documents, about `BATCH_TOKENS` at a time."""
    batch: Batch = []
    size = 0
    for number in documents:
        start, stop = shard.document_offsets[number : number + 2].tolist()
        batch.append(shard.read(start, stop).tolist())
        size += stop - start
        if size >= BATCH_TOKENS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@functools.lru_cache(maxsize=1)
def _reader(prefix: Path) -> ShardReader:
    """Jobs of a shard follow one another; what a document's place is found with is read once."""
    return ShardReader.attach(prefix)


def tally(benchmarks: Mapping[str, Sequence[str]], too_short: Sequence[int], found: Found) -> dict[str, Any]:
    """Counts and examples of each benchmark; questions are numbered through all of them, in their order."""
    tallies, first = {}, 0
    for name, questions in benchmarks.items():
        places = range(first, first + len(questions))
        seen = sorted(found.keys() & set(places))
        tallies[name] = {
            "questions": len(questions),
            "found": len(seen),
            "too_short": sum(place in places for place in too_short),
            "examples": [{"question": questions[place - first], "text": found[place]} for place in seen[:EXAMPLES]],
        }
        first += len(questions)
    return tallies
