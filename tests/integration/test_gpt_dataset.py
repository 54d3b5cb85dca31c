"""Our shards read by Megatron's own datasets: the same documents, the same tokens, and the trap that ours does not have."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import IndexedDataset

from megatron_octo.errors import ConfigError
from megatron_octo.shards import ShardReader, ShardWriter
from megatron_octo.training.blend import blend
from megatron_octo.training.data import SampleOrder, TokenStream, require_caps

SEQ_LENGTH = 16


@dataclass
class Tokenizer:
    """What GPTDataset asks of one."""

    vocab_size: int
    eod: int = 0
    #: No token's id: GPTDataset replaces it by 0 and takes its loss away.
    pad: int = -1
    unique_identifiers: dict[str, str] = field(default_factory=dict)


def write(prefix: Path, *, documents: int, vocab_size: int, seed: int) -> ShardReader:
    """Random documents of up to 40 tokens."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 40, size=documents)
    with ShardWriter(prefix, vocab_size=vocab_size) as writer:
        writer.add(random.integers(0, vocab_size, size=lengths.sum()), lengths)
    return ShardReader.open(prefix)


def gpt_dataset(
    prefixes: Sequence[Path],
    *,
    vocab_size: int,
    weights: Sequence[float] | None = None,
    samples: int | None = None,
    seq_length: int = SEQ_LENGTH,
):
    config = GPTDatasetConfig(
        random_seed=1234, sequence_length=seq_length, blend=([str(prefix) for prefix in prefixes], weights), split="1,0,0",
        reset_position_ids=False, reset_attention_mask=False, eod_mask_loss=False, create_attention_mask=False,
        tokenizer=Tokenizer(vocab_size), mid_level_dataset_surplus=0.005,
    )  # fmt: skip
    return BlendedMegatronDatasetBuilder(GPTDataset, [samples, 0, 0], lambda: True, config).build()[0]


@pytest.mark.parametrize("vocab_size", [512, 128_256], ids=["uint16", "int32"])
def test_indexed_dataset_finds_our_documents(tmp_path: Path, vocab_size: int) -> None:
    ours = write(tmp_path / "web", documents=50, vocab_size=vocab_size, seed=1)
    theirs = IndexedDataset(str(tmp_path / "web"))
    assert len(theirs) == ours.num_documents
    for number in range(ours.num_documents):
        assert np.array_equal(theirs[number], ours.document(number))


@pytest.mark.parametrize("vocab_size", [512, 128_256], ids=["uint16", "int32"])
def test_gpt_dataset_reads_all_our_tokens(tmp_path: Path, vocab_size: int) -> None:
    """One epoch of its samples, put back in order, is our documents in the order it shuffled them to."""
    ours = write(tmp_path / "web", documents=200, vocab_size=vocab_size, seed=2)
    theirs = gpt_dataset([tmp_path / "web"], vocab_size=vocab_size)
    assert sorted(theirs.document_index) == list(range(200))
    expected = np.concatenate([ours.document(number) for number in theirs.document_index])
    assert len(theirs) == (expected.size - 1) // SEQ_LENGTH
    assert sorted(theirs.shuffle_index) == list(range(len(theirs)))
    for place, number in enumerate(theirs.shuffle_index):
        sample = theirs[place]
        window = expected[number * SEQ_LENGTH : number * SEQ_LENGTH + SEQ_LENGTH + 1]
        assert sample["tokens"].tolist() == window[:-1].tolist()
        assert sample["labels"].tolist() == window[1:].tolist()


def test_one_sample_by_hand(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "web", vocab_size=512) as writer:
        writer.add(np.array([5, 6, 7, 0, 300, 0]), np.array([4, 2]))
    theirs = gpt_dataset([tmp_path / "web"], vocab_size=512, seq_length=5)
    # Two documents, one window of 5 tokens and a label: either order is one of these.
    by_order = {(0, 1): [5, 6, 7, 0, 300, 0], (1, 0): [300, 0, 5, 6, 7, 0]}
    window = by_order[tuple(theirs.document_index.tolist())]
    assert len(theirs) == 1
    assert (theirs[0]["tokens"].tolist(), theirs[0]["labels"].tolist()) == (window[:-1], window[1:])
    stream = TokenStream(name="web", shards=(ShardReader.open(tmp_path / "web"),), seq_length=5)
    assert stream.window(0).tolist() == by_order[0, 1]


def test_a_blend_of_our_shards(tmp_path: Path) -> None:
    """Both draw the same number of samples of each corpus; GPTDataset's come from the corpus it says."""
    vocab_size, samples = 512, 100
    corpora = {
        name: write(tmp_path / name, documents=documents, vocab_size=vocab_size, seed=documents)
        for name, documents in (("web", 120), ("qa", 60))
    }
    prefixes = [tmp_path / name for name in corpora]
    theirs = gpt_dataset(prefixes, vocab_size=vocab_size, weights=[0.7, 0.3], samples=samples)
    found = Counter(int(theirs[place]["dataset_id"]) for place in range(samples))
    streams = [TokenStream(name=name, shards=(shard,), seq_length=SEQ_LENGTH) for name, shard in corpora.items()]
    order = SampleOrder(blend=blend(web=0.7, qa=0.3), streams=streams, seed=1234, phase="stable")
    assert found == {0: 70, 1: 30} == Counter(order.read(np.arange(samples)).corpora_N.tolist())


def test_repeating_a_small_corpus_is_silent_there_and_refused_here(tmp_path: Path) -> None:
    """The trap: a budget that goes six times through a corpus builds without a word."""
    vocab_size, samples = 512, 400
    corpora = {
        name: write(tmp_path / name, documents=documents, vocab_size=vocab_size, seed=documents)
        for name, documents in (("web", 400), ("qa", 16))
    }
    theirs = gpt_dataset(
        [tmp_path / name for name in corpora], vocab_size=vocab_size, weights=[0.7, 0.3], samples=samples
    )
    times_read = Counter(theirs.datasets[1].document_index.tolist())
    assert min(times_read.values()) >= 6
    mix = blend(web=0.7, qa=0.3).capped(qa=4)
    streams = [TokenStream(name=name, shards=(shard,), seq_length=SEQ_LENGTH) for name, shard in corpora.items()]
    with pytest.raises(
        ConfigError, match=r"corpus 'qa' would be read \S+ times .* max_epochs allows 4: train on at most"
    ):
        require_caps(SampleOrder(blend=mix, streams=streams, seed=1, phase="p"), mix, samples)


def test_a_longer_run_keeps_its_past_here_alone(tmp_path: Path) -> None:
    """There the order changes once a corpus needs one epoch more, which a resumed or extended run does not notice."""
    shard = write(tmp_path / "web", documents=60, vocab_size=512, seed=60)
    streams = [TokenStream(name="web", shards=(shard,), seq_length=SEQ_LENGTH)]
    windows = streams[0].num_windows
    theirs = [
        [gpt[place]["tokens"].tolist() for place in range(windows // 2)]
        for gpt in (
            gpt_dataset([tmp_path / "web"], vocab_size=512, weights=[1.0], samples=samples)
            for samples in (windows // 2, windows * 2)
        )
    ]
    assert theirs[0] != theirs[1]
    order = SampleOrder(blend=blend(web=1.0), streams=streams, seed=1, phase="p")
    short, long = (order.read(np.arange(samples)).tokens_NS1 for samples in (windows // 2, windows * 2))
    assert np.array_equal(long[: windows // 2], short)
