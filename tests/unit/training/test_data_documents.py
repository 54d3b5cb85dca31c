"""Where documents begin in a window: found in the mapped index, also across shards, in documents of several sequences."""

from pathlib import Path

import numpy as np
import pytest
from written_shards import shard_of_sequences, stream

from megatron_octo.errors import CorpusError
from megatron_octo.shards import ShardReader, idx_path
from megatron_octo.training.blend import blend
from megatron_octo.training.data import SampleOrder, TokenStream


def starts(found: TokenStream) -> list[list[int]]:
    return [found.document_starts(index).tolist() for index in range(found.num_windows)]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([2, 1, 6], [[0, 0, 2, 3], [0, 0, 0, 0]]),
        ([9], [[0, 0, 0, 0], [0, 0, 0, 0]]),
        ([4, 5], [[0, 0, 0, 0], [0, 0, 0, 0]]),
        ([5, 4], [[0, 0, 0, 0], [0, 1, 1, 1]]),
        ([1] * 9, [[0, 1, 2, 3], [0, 1, 2, 3]]),
        # Empty documents: at the beginning, between, where a window begins, at the end.
        ([0, 2, 0, 0, 2, 0, 5, 0], [[0, 0, 2, 2], [0, 0, 0, 0]]),
    ],
)
def test_places_of_documents(tmp_path: Path, lengths: list[int], expected: list[list[int]]) -> None:
    assert starts(stream(tmp_path, lengths)) == expected


def test_a_shard_begins_a_document(tmp_path: Path) -> None:
    assert starts(stream(tmp_path, [3], [], [0, 2], [4])) == [[0, 0, 0, 3], [0, 1, 1, 1]]


def test_documents_of_several_sequences_are_one(tmp_path: Path) -> None:
    # The second document has no sequence at all, the last neither.
    reader = shard_of_sequences(tmp_path / "web", [[1, 2], [], [2], [0, 1, 3], []])
    assert reader.num_documents == 5
    assert starts(TokenStream(name="web", shards=(reader,), seq_length=4)) == [[0, 0, 0, 3], [0, 1, 1, 1]]


@pytest.mark.parametrize("seed", range(10))
def test_as_counting_finds_them(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    shards = [random.integers(0, 12, size=random.integers(1, 30)).tolist() for _ in range(6)]
    found = stream(tmp_path, *shards, seq_length=11)
    document_of = np.repeat(np.arange(sum(map(len, shards))), np.concatenate(shards))
    for index in range(found.num_windows):
        window = document_of[index * 11 : index * 11 + 11]
        expected = [int(np.flatnonzero(window == document)[0]) for document in window]
        assert found.document_starts(index).tolist() == expected


def test_starts_come_with_the_windows_where_asked_for(tmp_path: Path) -> None:
    streams = [stream(tmp_path, [3] * 8, name=name) for name in ("web", "qa")]
    order = SampleOrder(blend=blend(web=0.5, qa=0.5), streams=streams, seed=1, phase="p", document_starts=True)
    windows = order.read(np.arange(6))
    assert windows.starts_NS is not None
    # Tokens count on from 0 and documents have three: the first token of each tells.
    first_NS = windows.tokens_NS1[:, :1] + windows.starts_NS
    tokens_NS = windows.tokens_NS1[:, :-1]
    assert np.array_equal(first_NS, np.maximum(tokens_NS - tokens_NS % 3, tokens_NS[:, :1]))


def test_the_index_is_not_read_for_windows_alone(tmp_path: Path) -> None:
    found = stream(tmp_path, [3] * 8)
    for shard in found.shards:
        idx_path(shard.prefix).unlink()
    found.window(3)
    with pytest.raises(CorpusError, match=r"cannot read .*web-0\.idx: No such file"):
        found.document_starts(3)


def test_documents_of_a_batch_are_named(tmp_path: Path) -> None:
    streams = [stream(tmp_path, [3, 0, 2], [1, 6], name=name) for name in ("web", "qa")]
    order = SampleOrder(blend=blend(web=0.5, qa=0.5), streams=streams, seed=1, phase="p")
    # A window of each corpus and epoch; window 0 holds tokens 0 to 4 with the label, window 1 tokens 4 to 8.
    lines = order.documents(np.arange(4))
    assert sorted(lines) == [
        f"corpus 'qa', window 0: {tmp_path}/qa-0: documents 0 to 2",
        f"corpus 'qa', window 1: {tmp_path}/qa-0: documents 2 to 2; {tmp_path}/qa-1: documents 0 to 1",
        f"corpus 'web', window 0: {tmp_path}/web-0: documents 0 to 2",
        f"corpus 'web', window 1: {tmp_path}/web-0: documents 2 to 2; {tmp_path}/web-1: documents 0 to 1",
    ]
    corpora, windows = order.locate(np.arange(4))
    assert [line.split(":")[0] for line in lines] == [
        f"corpus '{('web', 'qa')[corpus]}', window {window}" for corpus, window in zip(corpora, windows, strict=True)
    ]


def test_a_named_document_is_the_one_with_the_text(tmp_path: Path) -> None:
    found = stream(tmp_path, [3, 0, 2, 7])
    shard = found.shards[0]
    documents = shard.index.documents_between(4, 9)
    text = [token for number in documents for token in ShardReader.open(shard.prefix).document(number).tolist()]
    assert documents == range(2, 4)
    assert set(found.window(1).tolist()) <= set(text)
