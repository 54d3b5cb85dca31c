"""The order of corpora and windows: exact shares at every prefix, a permutation per epoch."""

import numpy as np
import pytest

from megatron_octo import recipes
from megatron_octo.errors import ConfigError
from megatron_octo.training.blend import Blend, Share, blend
from megatron_octo.training.order import BlendOrder, permute

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


def random_blend(seed: int) -> Blend:
    """Two to nine corpora whose shares are whole thousandths."""
    random = np.random.default_rng(seed)
    cuts = np.sort(random.choice(np.arange(1, 1000), size=random.integers(1, 9), replace=False))
    thousandths = np.diff([0, *cuts, 1000])
    return Blend(shares=tuple(Share(corpus=f"c{n}", weight=part / 1000) for n, part in enumerate(thousandths)))


@pytest.mark.parametrize("seed", range(25))
def test_random_blends_stay_within_one_sample_of_their_quota(seed: int) -> None:
    mix = random_blend(seed)
    corpora, ordinals = BlendOrder(mix).locate(np.arange(2500))
    counted = np.cumsum(np.eye(len(mix.shares), dtype=np.int64)[corpora], axis=0)
    # In thousandths, so that nothing is rounded.
    thousandths = np.array([round(1000 * share.weight) for share in mix.shares])
    assert np.abs(1000 * counted - np.arange(1, 2501)[:, None] * thousandths).max() < 1000
    assert (ordinals == counted[np.arange(2500), corpora] - 1).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_sample_is_found_from_its_corpus_and_ordinal(seed: int) -> None:
    order = BlendOrder(random_blend(seed))
    samples = np.random.default_rng(seed).integers(0, 10**12, size=50)
    corpora, ordinals = order.locate(samples)
    found = [order.place_of(int(corpus), int(ordinal)) for corpus, ordinal in zip(corpora, ordinals, strict=True)]
    assert found == samples.tolist()


@pytest.mark.parametrize("seed", range(10))
def test_permutations_of_random_sizes_are_bijections(seed: int) -> None:
    size = int(np.random.default_rng(seed).integers(1, 20_000))
    found = permute(np.arange(size), size=size, key=f"{seed}/web/0".encode())
    assert np.array_equal(np.sort(found), np.arange(size))


def test_a_permutation_of_more_than_32_bits_stays_inside_and_repeats_nothing() -> None:
    size = 2**40 + 3
    places = np.concatenate([np.arange(5000), np.arange(size - 5000, size)])
    found = permute(places, size=size, key=b"key")
    assert found.min() >= 0
    assert found.max() < size
    assert len(np.unique(found)) == len(places)
    # Spread over all of it, not near where they came from.
    assert np.histogram(found, bins=4, range=(0, size))[0].min() > 2000
