"""The samples of a phase: windows, every one once per epoch, the same on any number of ranks, and caps on repetition."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from written_shards import stream

from megatron_octo.errors import ConfigError, CorpusError
from megatron_octo.training.blend import Blend, blend
from megatron_octo.training.data import SampleOrder, StepReader, TokenStream, require_caps


def test_neighbouring_windows_share_a_token_also_across_shards(tmp_path: Path) -> None:
    found = stream(tmp_path, [2, 1], [], [5, 6])
    assert (found.num_tokens, found.num_windows) == (14, 3)
    assert [found.window(index).tolist() for index in range(3)] == [
        [0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [8, 9, 10, 11, 12],
    ]  # fmt: skip
    assert found.window(0).dtype == np.int64


@pytest.mark.parametrize("seed", range(5))
def test_windows_of_many_shards_are_those_of_one_array(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    found = stream(tmp_path, *random.integers(0, 9, size=(40, 2)).tolist(), seq_length=7)
    assert [found.window(index).tolist() for index in range(found.num_windows)] == [
        list(range(start, start + 8)) for start in range(0, 7 * found.num_windows, 7)
    ]


@pytest.mark.parametrize(("tokens", "windows"), [(5, 1), (8, 1), (9, 2)])
def test_the_last_window_needs_its_label(tmp_path: Path, tokens: int, windows: int) -> None:
    assert stream(tmp_path, [tokens]).num_windows == windows


def test_too_little_text(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"corpus 'web' has 4 tokens, less than one window of 4 \+ 1"):
        stream(tmp_path, [4])


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> list[TokenStream]:
    """Two corpora of 10 and 3 windows of one token each, so that window and token are the same number."""
    directory = tmp_path_factory.mktemp("shards")
    return [stream(directory, [size + 1], name=name, seq_length=1) for name, size in (("web", 10), ("qa", 3))]


def sample_order(
    streams: list[TokenStream], phase: str = "stable", seed: int = 1234, mix: Blend | None = None
) -> SampleOrder:
    return SampleOrder(blend=mix or blend(web=0.8, qa=0.2), streams=streams, seed=seed, phase=phase)


def test_every_window_once_per_epoch_and_another_order_in_the_next(streams: list[TokenStream]) -> None:
    corpora, windows = sample_order(streams).locate(np.arange(50))
    web, qa = windows[corpora == 0], windows[corpora == 1]
    epochs = [web[start : start + 10].tolist() for start in range(0, 40, 10)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 4
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert [sorted(qa[start : start + 3]) for start in range(0, 9, 3)] == [[0, 1, 2]] * 3


def test_epochs(streams: list[TokenStream]) -> None:
    assert sample_order(streams).epochs(50) == {"web": 4.0, "qa": 10 / 3}


def test_a_sample_is_found_without_those_before_it(streams: list[TokenStream]) -> None:
    order = sample_order(streams)
    whole = order.read(np.arange(100))
    for start in (0, 13, 64):
        part = order.read(np.arange(start, start + 8))
        assert (part.tokens_NS1 == whole.tokens_NS1[start : start + 8]).all()
        assert (part.corpora_N == whole.corpora_N[start : start + 8]).all()
    assert whole.tokens_NS1.shape == (100, 2)
    assert (whole.tokens_NS1[:, 1] == whole.tokens_NS1[:, 0] + 1).all()
    assert whole.starts_NS is None


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_any_number_of_ranks_reads_the_same_batches(streams: list[TokenStream], ranks: int) -> None:
    """Each rank has an order of its own, as each has a process of its own."""
    orders = [sample_order(streams) for _ in range(ranks)]
    steps = np.arange(24).reshape(3, ranks, -1)
    found = [[order.read(steps[step, rank]).tokens_NS1 for rank, order in enumerate(orders)] for step in range(3)]
    assert np.array_equal(np.concatenate([np.concatenate(step) for step in found])[:, 0], FIRST_TOKENS)


#: Written down once: a change here breaks the resuming of everybody's runs.
FIRST_TOKENS = [0, 3, 9, 2, 1, 5, 8, 6, 4, 2, 7, 1, 9, 3, 0, 5, 7, 0, 4, 2, 2, 1, 6, 8]


@pytest.mark.parametrize("budget", [30, 50, 51, 500])
def test_extending_a_run_never_changes_its_past(streams: list[TokenStream], budget: int) -> None:
    """Where Megatron's own dataset shuffles anew once a corpus needs one epoch more: 30 to 500 samples are 2 to 40 of them."""
    longer = sample_order(streams).locate(np.arange(budget))
    shorter = sample_order(streams).locate(np.arange(30))
    assert all(np.array_equal(long[:30], short) for long, short in zip(longer, shorter, strict=True))


@pytest.mark.parametrize("other", [{"phase": "decay_long"}, {"seed": 1235}])
def test_another_phase_or_seed_has_another_order(streams: list[TokenStream], other: dict[str, Any]) -> None:
    samples = np.arange(40)
    found = [sample_order(streams, **settings).locate(samples)[1].tolist() for settings in ({}, other)]
    assert found[0] != found[1]


def test_a_corpus_is_read_no_more_often_than_its_cap(streams: list[TokenStream]) -> None:
    """40 samples draw 8 windows of 'qa', which has 3."""
    for cap, fits in ((2.5, False), (2.67, True), (3, True)):
        mix = blend(web=0.8, qa=0.2).capped(qa=cap)
        order = sample_order(streams, mix=mix)
        if fits:
            require_caps(order, mix, 40)
        else:
            with pytest.raises(ConfigError, match=r"max_epochs allows 2\.5"):
                require_caps(order, mix, 40)


def test_a_cap_is_refused_with_the_numbers(streams: list[TokenStream]) -> None:
    mix = blend(web=0.8, qa=0.2).capped(qa=2)
    with pytest.raises(ConfigError) as refused:
        require_caps(sample_order(streams, mix=mix), mix, 50)
    assert str(refused.value) == (
        "corpus 'qa' would be read 3.333 times (10 of 3 tokens), max_epochs allows 2: train on at most 34 tokens with this blend, "
        "lower its share from 0.2 to 0.12, give it more text, or raise max_epochs"
    )


def test_what_the_refusal_proposes_is_allowed(streams: list[TokenStream]) -> None:
    mix = blend(web=0.8, qa=0.2).capped(qa=2)
    require_caps(sample_order(streams, mix=mix), mix, 34)
    with pytest.raises(ConfigError):
        require_caps(sample_order(streams, mix=mix), mix, 35)
    smaller = blend(web=0.88, qa=0.12).capped(qa=2)
    require_caps(sample_order(streams, mix=smaller), smaller, 50)


def test_all_caps_are_named_at_once(streams: list[TokenStream]) -> None:
    mix = blend(web=0.8, qa=0.2).capped(web=0.5, qa=0.3)
    with pytest.raises(ConfigError) as refused:
        require_caps(sample_order(streams, mix=mix), mix, 1000)
    assert [line.split()[1] for line in str(refused.value).splitlines()] == ["'web'", "'qa'"]
    # 0.3 x 3 windows are none at all.
    assert "leave it out of the blend" in str(refused.value).splitlines()[1]


def test_steps_are_read_one_ahead() -> None:
    read: list[int] = []
    second = threading.Event()

    def slowly(step: int) -> str:
        read.append(step)
        if step == 1:
            second.set()
        return f"step {step}"

    reader = StepReader(slowly, first=0, last=3)
    assert reader.take(0) == "step 0"
    assert second.wait(5), "step 1 is read while step 0 is computed"
    assert [reader.take(step) for step in (1, 2)] == ["step 1", "step 2"]
    reader.close()
    # Nothing is read beyond the last step.
    assert read == [0, 1, 2]


def test_waiting_is_counted() -> None:
    reader = StepReader(lambda step: time.sleep(0.2), first=0, last=2)
    reader.take(0)
    assert 0.1 < reader.waited_seconds < 5
    time.sleep(0.5)
    reader.take(1)
    assert reader.waited_seconds < 0.1
    reader.close()


def test_a_damaged_shard_found_ahead_stops_the_step_that_needs_it() -> None:
    def read(step: int) -> int:
        if step == 1:
            raise CorpusError("web.bin is damaged")
        return step

    reader = StepReader(read, first=0, last=5)
    assert reader.take(0) == 0
    with pytest.raises(CorpusError, match=r"web\.bin is damaged"):
        reader.take(1)
    reader.close()


def test_steps_are_taken_in_order() -> None:
    reader = StepReader(lambda step: step, first=3, last=9)
    with pytest.raises(AssertionError):
        reader.take(4)
    assert reader.take(3) == 3
    reader.close()


def test_a_finished_run_reads_nothing() -> None:
    read: list[int] = []
    StepReader(read.append, first=5, last=5).close()
    assert read == []
