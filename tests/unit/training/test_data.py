"""The order of the data: exact shares at every prefix, every window once per epoch, the same on any number of ranks."""

from typing import Any

import numpy as np
import pytest

from megatron_octo import recipes
from megatron_octo.errors import ConfigError, CorpusError
from megatron_octo.training.config import Blend, blend
from megatron_octo.training.data import BlendOrder, SampleOrder, TokenStream, permute

#: Blends of the paper and of the tiny study, and some that are hard to keep.
BLENDS = {
    **{
        name: recipes.load(name).blend
        for name in (
            "llama32_3b.stable", "llama32_3b.decay_long", "llama32_3b.decay_short", "llama32_3b.decay_hybrid",
            "tiny.stable", "tiny.decay_short", "ablations.qa_short_instruct",
        )
    },
    "one": blend(a=1.0),
    "thirds": blend(a=0.333, b=0.333, c=0.334),
    "rare": blend(a=0.9999, b=0.0001),
    "many": blend(**{f"c{number}": 0.05 for number in range(20)}),
}  # fmt: skip


@pytest.mark.parametrize("mix", BLENDS.values(), ids=BLENDS.keys())
def test_every_prefix_keeps_the_shares(mix: Blend) -> None:
    order = BlendOrder(mix)
    samples = 2 * len(order.pattern) + 7
    corpora, ordinals = order.locate(np.arange(samples))
    weights = np.array([share.weight for share in mix.shares])
    counted = np.cumsum(np.eye(len(weights), dtype=np.int64)[corpora], axis=0)
    exact = np.arange(1, samples + 1)[:, None] * weights
    assert np.abs(counted - exact).max() < 1
    # The ordinal is how many samples of that corpus came before.
    assert (ordinals == counted[np.arange(samples), corpora] - 1).all()


@pytest.mark.parametrize("mix", BLENDS.values(), ids=BLENDS.keys())
def test_drawn_is_what_counting_finds(mix: Blend) -> None:
    order = BlendOrder(mix)
    period = len(order.pattern)
    for samples in (0, 1, 2, 7, period - 1, period, period + 1, 3 * period + period // 2):
        corpora, _ = order.locate(np.arange(samples))
        assert order.drawn(samples).tolist() == np.bincount(corpora, minlength=len(mix.shares)).tolist()


def test_the_order_of_a_small_blend() -> None:
    corpora, ordinals = BlendOrder(blend(a=0.5, b=0.3, c=0.2)).locate(np.arange(10))
    assert corpora.tolist() == [0, 1, 0, 2, 0, 1, 0, 1, 0, 2]
    assert ordinals.tolist() == [0, 0, 1, 0, 2, 1, 3, 2, 4, 1]


def test_samples_beyond_32_bits_are_found_too() -> None:
    order = BlendOrder(blend(a=0.75, b=0.25))
    corpora, ordinals = order.locate(np.arange(4 * 10**12, 4 * 10**12 + 4))
    assert corpora.tolist() == order.pattern.tolist()
    assert ordinals[corpora == 1].tolist() == [10**12]


def test_shares_with_too_many_decimals() -> None:
    with pytest.raises(ConfigError, match=r"repeat after 10,000,000 samples; write them with at most five decimals"):
        BlendOrder(blend(a=0.1234567, b=0.8765433))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000, 4096, 4097])
def test_a_permutation_visits_everything_once_and_depends_on_the_key(size: int) -> None:
    first, second = (
        permute(np.arange(size), size=size, key=key) for key in (b"1234/stable/web/0", b"1234/stable/web/1")
    )
    assert sorted(first) == sorted(second) == list(range(size))
    if size >= 16:
        # Independent permutations agree in one place on average.
        assert (first == second).sum() <= 8
        assert (first == np.arange(size)).sum() <= 8


def test_a_permutation_is_evaluated_place_by_place() -> None:
    whole = permute(np.arange(1000), size=1000, key=b"key")
    places = np.array([999, 0, 17, 17])
    assert permute(places, size=1000, key=b"key").tolist() == whole[places].tolist()


def test_the_order_is_the_same_on_every_machine() -> None:
    # Written down once: a change here breaks the resuming of everybody's runs.
    assert permute(np.arange(8), size=8, key=b"1234/stable/web/0").tolist() == [0, 3, 1, 2, 5, 7, 6, 4]


def test_neighbouring_windows_share_a_token_also_across_shards() -> None:
    stream = TokenStream(
        name="web",
        shards=(np.arange(0, 3, dtype=np.uint16), np.arange(3, 3, dtype=np.uint16), np.arange(3, 14, dtype=np.uint16)),
        seq_length=4,
    )
    assert (stream.num_tokens, stream.num_windows) == (14, 3)
    assert [stream.window(index).tolist() for index in range(3)] == [
        [0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [8, 9, 10, 11, 12],
    ]  # fmt: skip
    assert stream.window(0).dtype == np.int64


@pytest.mark.parametrize(("tokens", "windows"), [(5, 1), (8, 1), (9, 2)])
def test_the_last_window_needs_its_label(tokens: int, windows: int) -> None:
    assert TokenStream(name="web", shards=(np.zeros(tokens, np.uint16),), seq_length=4).num_windows == windows


def test_too_little_text() -> None:
    with pytest.raises(CorpusError, match=r"corpus 'web' has 4 tokens, less than one window of 4 \+ 1"):
        TokenStream(name="web", shards=(np.zeros(4, np.uint16),), seq_length=4)


def sample_order(phase: str = "stable", seed: int = 1234) -> SampleOrder:
    """Two corpora of 10 and 3 windows of one token each, so that window and token are the same number."""
    streams = [
        TokenStream(name=name, shards=(np.arange(size + 1, dtype=np.uint16),), seq_length=1)
        for name, size in (("web", 10), ("qa", 3))
    ]
    return SampleOrder(blend=blend(web=0.8, qa=0.2), streams=streams, seed=seed, phase=phase)


def test_every_window_once_per_epoch_and_another_order_in_the_next() -> None:
    corpora, windows = sample_order().locate(np.arange(50))
    web, qa = windows[corpora == 0], windows[corpora == 1]
    epochs = [web[start : start + 10].tolist() for start in range(0, 40, 10)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 4
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert [sorted(qa[start : start + 3]) for start in range(0, 9, 3)] == [[0, 1, 2]] * 3


def test_epochs() -> None:
    assert sample_order().epochs(50) == {"web": 4.0, "qa": 10 / 3}


def test_a_sample_is_found_without_those_before_it() -> None:
    order = sample_order()
    whole = order.read(np.arange(100))
    for start in (0, 13, 64):
        part = order.read(np.arange(start, start + 8))
        assert (part[0] == whole[0][start : start + 8]).all()
        assert (part[1] == whole[1][start : start + 8]).all()
    assert whole[0].shape == (100, 2)
    assert (whole[0][:, 1] == whole[0][:, 0] + 1).all()


@pytest.mark.parametrize("other", [{"phase": "decay_long"}, {"seed": 1235}])
def test_another_phase_or_seed_has_another_order(other: dict[str, Any]) -> None:
    samples = np.arange(40)
    assert sample_order().locate(samples)[1].tolist() != sample_order(**other).locate(samples)[1].tolist()
