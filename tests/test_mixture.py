"""The mixture is integer arithmetic: checked over many topologies without a process."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import InputError
from data.mixture import Mixture, Stream, permutation

streams_of = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), min_size=1, max_size=4)


def mixture(shape: list[tuple[int, int]], seed: int = 0) -> Mixture:
    return Mixture([Stream(name=f"stream {i}", num_samples=n, quota=q) for i, (n, q) in enumerate(shape)], seed=seed)


@given(streams_of, st.integers(0, 500), st.sampled_from([1, 2, 3, 4, 8]))
def test_ranks_share_one_global_batch(shape: list[tuple[int, int]], step: int, world_size: int) -> None:
    mix = mixture(shape)
    whole = mix.draws(step)
    shares = [mix.draws(step, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert Counter(draw for share in shares for draw in share) == Counter(whole)
    for number, (_, quota) in enumerate(shape):
        per_rank = [sum(draw.stream == number for draw in share) for share in shares]
        assert sum(per_rank) == quota
        assert max(per_rank) - min(per_rank) <= 1


@given(st.integers(1, 50), st.integers(1, 9), st.integers(0, 3))
def test_every_epoch_holds_every_sample_once(num_samples: int, quota: int, seed: int) -> None:
    mix = mixture([(num_samples, quota)], seed)
    draws = [draw for step in range(-(-3 * num_samples // quota)) for draw in mix.draws(step)]
    for epoch in range(3):
        assert sorted(draw.sample for draw in draws if draw.epoch == epoch) == list(range(num_samples))
    assert [draw.epoch * num_samples + draw.offset for draw in draws] == list(range(len(draws)))


def test_resuming_needs_the_step_alone() -> None:
    shape = [(367, 2), (89, 4), (10, 2)]
    before = [mixture(shape).draws(step) for step in range(200)]
    assert [mixture(shape).draws(step) for step in range(117, 200)] == before[117:]
    assert mixture(shape).draws(10**9)


def test_the_order_is_pinned() -> None:
    """A change of the order would silently change every run that goes on: it has to be meant."""
    assert permutation(0, "streets_fine", 0, 10).tolist() == PINNED
    assert permutation(0, "streets_fine", 1, 10).tolist() != PINNED
    assert permutation(0, "streets_coarse", 0, 10).tolist() != PINNED
    assert permutation(1, "streets_fine", 0, 10).tolist() != PINNED


PINNED = [6, 7, 9, 2, 8, 5, 3, 1, 0, 4]


def test_the_shuffle_is_uniform() -> None:
    """Over many epochs each sample is at each place equally often, and follows each other sample equally often."""
    num_samples, epochs = 12, 6000
    orders = np.stack([permutation.__wrapped__(7, "x", epoch, num_samples) for epoch in range(epochs)])
    places = np.stack([np.bincount(orders[:, place], minlength=num_samples) for place in range(num_samples)])
    pairs = np.zeros((num_samples, num_samples))
    np.add.at(pairs, (orders[:, :-1].ravel(), orders[:, 1:].ravel()), 1)
    off_diagonal = pairs[~np.eye(num_samples, dtype=bool)]
    # Chi-square per degree of freedom: 1 for uniform, with a spread of about sqrt(2 / 121) = 0.13.
    for counts in (places.ravel(), off_diagonal):
        expected = counts.mean()
        assert ((counts - expected) ** 2 / expected).sum() / len(counts) < 1.4


def test_generators_differ_by_draw_and_not_by_process() -> None:
    mix = mixture([(50, 4), (50, 4)])
    firsts = [mix.generator(draw).random() for step in range(20) for draw in mix.draws(step)]
    assert len(set(firsts)) == len(firsts)
    assert firsts == [mix.generator(draw).random() for step in range(20) for draw in mix.draws(step)]


def test_what_cannot_be_mixed_is_told() -> None:
    with pytest.raises(InputError, match=r"data\.mix: empty"):
        Mixture([], seed=0)
    with pytest.raises(InputError, match=r"data\.mix\.a: no samples found"):
        Mixture([Stream(name="a", num_samples=0, quota=1)], seed=0)
    with pytest.raises(InputError, match=r"a global batch of 5 \(2 stream 0 \+ 3 stream 1\) found, which 2 workers do not divide"):
        mixture([(4, 2), (4, 3)]).check_world_size(2)
